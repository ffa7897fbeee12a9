"""An adapter of every kind that was saved is found to be its state; one that anything else would be loaded from is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from securefl.audit import adapter_files
from securefl.coordinator import evidence
from securefl.errors import Tampered
from securefl.terms import Adapter, AdapterKind, AdapterRule, Plan, Task
from securefl.training.shared_model import SharedModel
from tests.support import tiny_models
from tests.training import test_training_prompt as prompts

K, R = AdapterKind, AdapterRule
CASES: dict[str, tuple[str, Adapter]] = {
    **{f"lora, {rule.value}": ("bert", replace(tiny_models.adapter("bert"), rule=rule)) for rule in R},
    "lora on Conv1D": ("gpt2", tiny_models.adapter("gpt2")),
    "rslora": ("llama", replace(tiny_models.adapter("llama"), kind=K.RSLORA)),
    "bottleneck": ("bert", replace(tiny_models.adapter("bert"), kind=K.BOTTLENECK)),
    "full": ("bert", Adapter(("encoder.layer.0.attention",), 1, 1, 1, K.FULL)),
    "head": ("bert", Adapter((), 1, 1, 1, K.HEAD)),
    "soft prompt": ("bert", Adapter((), 4, 1, 1, K.SOFT_PROMPT)),
    "prefix": ("gpt2", Adapter((), 4, 1, 1, K.PREFIX)),
    "prompt": ("masked", prompts.LORA),
    "language, lora": ("bytes", Adapter(("query", "value"), 2, 4, 1)),
    "language, full": ("bytes", Adapter(("blocks", "head"), 1, 1, 0, K.FULL)),
}


def shared(model: str, adapter: Adapter, folder: Path) -> SharedModel:
    if model == "bytes":
        return SharedModel.load("bytes:2x32", folder, Task("language", ()), adapter)
    if model == "masked":
        return prompts.shared(folder, "bert", adapter)
    return SharedModel.load(str(tiny_models.saved(model, folder)), folder, tiny_models.TASK, adapter)


@pytest.fixture(scope="module", params=CASES, ids=lambda name: name.replace(" ", "-"))
def made(request, tmp_path_factory) -> tuple[Path, bytes, Plan]:
    """A folder as a run leaves it, the state it is of, and a plan of the run."""
    of = shared(*CASES[request.param], tmp_path_factory.mktemp("model"))
    moved = np.frombuffer(of.initial(), "<f4") + np.random.default_rng(1).normal(0, 1, of.dimension)
    state, out = moved.astype("<f4").tobytes(), tmp_path_factory.mktemp("out") / "adapter"
    of.save(state, out)
    evidence.keep_state(out.parent, state, of.layout)
    return out, state, tiny_models.plan(of)


def test_what_was_saved_is_the_state(made: tuple[Path, bytes, Plan]) -> None:
    out, state, plan = made
    checked, notes = adapter_files.check(out, state, plan)
    assert {path.name for path in out.iterdir()} - checked <= {"README.md"}
    assert len(notes) <= 1


@pytest.mark.parametrize("name", [
    "adapter_model.bin", "adapter_model.safetensors", "adapter.safetensors", "model.safetensors", "pytorch_model.bin",
    "adapter_config.json", "adapter.json", "head.safetensors", "labels.json", "config.json", "modeling.py", "new/x.bin",
])  # fmt: skip
def test_a_file_of_another_kind_of_adapter_is_refused(
    made: tuple[Path, bytes, Plan], name: str, tmp_path: Path
) -> None:
    out, state, plan = made
    copy = tmp_path / "adapter"
    shutil.copytree(out, copy)
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_bytes(b"{}")
    with pytest.raises(Tampered):
        adapter_files.check(copy, state, plan)
    if "/" not in name and not (out / name).exists():
        (copy / name).unlink()
        adapter_files.check(copy, state, plan)


def test_every_file_that_was_saved_is_needed(made: tuple[Path, bytes, Plan], tmp_path: Path) -> None:
    out, state, plan = made
    for path in out.iterdir():
        if path.name in ("README.md", adapter_files.STATE):  # a text; and the bytes that a caller reads
            continue
        copy = tmp_path / path.name / "adapter"
        shutil.copytree(out, copy)
        (copy / path.name).unlink()
        with pytest.raises(Tampered, match=path.name):
            adapter_files.check(copy, state, plan)


def _tensors(change: Callable[[dict[str, np.ndarray]], None]) -> Callable[[Path], None]:
    def spoil(out: Path) -> None:
        path = next(out / name for name in (adapter_files.FACTORS, adapter_files.OWN, adapter_files.WHOLE, adapter_files.HEAD)
                    if (out / name).exists())  # fmt: skip
        found = {name: each.copy() for name, each in load_file(path).items()}
        change(found)
        save_file(found, path, {"format": "pt"})

    return spoil


def _renamed(found: dict[str, np.ndarray]) -> None:
    name = next(iter(found))
    found["x." + name] = found.pop(name)


def _swapped(found: dict[str, np.ndarray]) -> None:
    names = sorted(found, key=lambda name: found[name].shape)
    pairs = ((a, b) for a, b in zip(names, names[1:], strict=False) if found[a].shape == found[b].shape)
    a, b = next(pairs, (names[0], names[-1]))
    found[a], found[b] = found[b], found[a] + (a == b)


def _read_as_integers(out: Path) -> None:
    """The same bytes under another type: what loads them finds other numbers."""
    for path in out.glob("*.safetensors"):
        path.write_bytes(path.read_bytes().replace(b'"F32"', b'"I32"', 1))


SPOILS = {
    "of another type": _read_as_integers,
    "renamed": _tensors(_renamed),
    "swapped": _tensors(_swapped),
    "one less": _tensors(lambda found: found.__delitem__(min(found))),
    "scaled": _tensors(lambda found: found.update({name: -100 * each for name, each in found.items()})),
    "another shape": _tensors(lambda found: found.update({name: each.reshape(-1) for name, each in found.items()})),
    "another layout": lambda out: (out / "layout.json").write_text(
        (out / "layout.json").read_text().replace('"name": "', '"name": "x.', 1)
    ),
}


@pytest.mark.parametrize("how", SPOILS)
def test_other_tensors_are_refused(made: tuple[Path, bytes, Plan], how: str, tmp_path: Path) -> None:
    out, state, plan = made
    copy = tmp_path / "adapter"
    shutil.copytree(out, copy)
    SPOILS[how](copy)
    if all((copy / each.name).read_bytes() == each.read_bytes() for each in out.iterdir()):
        pytest.fail("nothing was changed")
    with pytest.raises(Tampered):
        adapter_files.check(copy, state, plan)


@pytest.mark.parametrize(("name", "value"), [
    ("lora_alpha", -800), ("r", 5), ("use_rslora", True), ("use_dora", True), ("rank_pattern", {"query": 1}),
    ("alpha_pattern", {"query": 900}), ("layers_to_transform", [0]), ("modules_to_save", ["pooler"]),
    ("target_modules", ["query"]), ("target_modules", "query"), ("base_model_name_or_path", "elsewhere/model"), ("bias", "all"),
    ("peft_type", "IA3"), ("auto_mapping", {"parent_library": "os"}),
    ("auto_mapping", {"parent_library": "transformers.models.bert.modeling_bert", "base_model_class": "BertModel"}),
    ("auto_mapping", {"base_model_class": "system"}), ("auto_mapping", {}), ("peft_version", "x/../y"), ("peft_version", [1]),
    ("init_lora_weights", "pissa"), ("layer_replication", [[0, 1]]),
    ("use_dora", "none"), ("alora_invocation_tokens", "none"), ("kasa_config", {}), ("layers_to_transform", 0),
    ("layers_to_transform", False), ("bias", False), ("lora_dropout", False), ("anything", 0),
])  # fmt: skip
def test_what_peft_is_told_is_what_the_plan_says(name: str, value: object, tmp_path: Path) -> None:
    of = shared(*CASES["lora, b-only"], tmp_path / "model")
    state, out = of.initial(), tmp_path / "adapter"
    of.save(state, out)
    evidence.keep_state(out.parent, state, of.layout)
    adapter_files.check(out, state, tiny_models.plan(of))
    path = out / adapter_files.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(Tampered, match=name):
        adapter_files.check(out, state, tiny_models.plan(of))
