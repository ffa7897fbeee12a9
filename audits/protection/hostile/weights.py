"""Weights that load as others than were released, bound by the coordinator: names, shapes, files, settings."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from safetensors.numpy import load, save

from audits.protection.attempt import Attempt, Outcome
from audits.protection.hostile.evidence import rebound, tried
from securefl.audit import adapter_files
from securefl.coordinator import evidence
from securefl.errors import Tampered
from securefl.terms import Plan

FACTORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
Tensors = dict[str, np.ndarray]


def _changed(run: Path, change: Callable[[Tensors], None]) -> None:
    path = run / "adapter" / FACTORS
    found = dict(load(path.read_bytes()))
    change(found)
    path.write_bytes(save(found, {"format": "pt"}))
    rebound(run)


def renamed(drawn: random.Random, run: Path) -> None:
    """The tensors are those of the state under other names: PEFT finds none of its own, and takes zeros."""
    old, new = drawn.choice((("layer", "layers"), ("query", "value"), ("base_model.", ""), ("lora_B", "deep.lora_B")))

    def change(found: Tensors) -> None:
        for name in list(found):
            found[name.replace(old, new)] = found.pop(name)

    _changed(run, change)


def shifted(drawn: random.Random, run: Path) -> None:
    """A decoy stands where the state begins, so that each layer gets another's numbers, or numbers of nobody."""

    def change(found: Tensors) -> None:
        for name in [each for each in found if "lora_B" in each]:
            found["a.lora_B.weight"] = found[name]
            if drawn.random() < 0.5:
                found[name.replace("lora_B", "lora_A")] = found.pop(name) * drawn.uniform(-100, 100)
            else:
                del found[name]

    _changed(run, change)


def reshaped(drawn: random.Random, run: Path) -> None:
    """The same numbers in another shape, or split into two tensors, in the order of the state."""

    def change(found: Tensors) -> None:
        name = next(each for each in found if "lora_B" in each)
        whole = found.pop(name).reshape(-1)
        if drawn.random() < 0.5:
            found[name] = whole.reshape(drawn.choice(((1, 8), (8, 1), (4, 2), (8,))))
        else:
            cut = drawn.randrange(1, 8)
            found[name], found[name.replace("weight", "weight2")] = whole[:cut].copy(), whole[cut:].copy()

    _changed(run, change)


def never_changing_factors(drawn: random.Random, run: Path) -> None:
    """The factor that never changes stands in no state: it is scaled, exchanged or turned round."""

    def change(found: Tensors) -> None:
        name = next(each for each in found if "lora_A" in each)
        found[name] = drawn.choice((-100 * found[name], found[name][::-1].copy(), np.zeros_like(found[name])))

    _changed(run, change)


def another_file_is_loaded(drawn: random.Random, run: Path) -> None:
    """The checked tensors stand where nobody loads them, or a file is put beside them that is loaded too."""
    adapter = run / "adapter"
    if drawn.random() < 0.5:
        (adapter / FACTORS).rename(adapter / drawn.choice(("adapter.safetensors", "model.safetensors")))
    name = drawn.choice((
        "adapter_model.bin", "pytorch_model.bin", "model.safetensors.index.json", "modeling_bert.py", "config.json",
        "tokenizer.json", "generation_config.json", "default/adapter_model.safetensors", "checkpoint/adapter_model.bin",
    ))  # fmt: skip
    (adapter / name).parent.mkdir(exist_ok=True)
    (adapter / name).write_bytes(drawn.randbytes(64))
    rebound(run)


def other_settings(drawn: random.Random, run: Path) -> None:
    """PEFT reads the right tensors under settings that make another model of them."""
    path = run / "adapter" / CONFIG
    found = json.loads(path.read_text())
    changes: tuple[tuple[str, object], ...] = (
        ("lora_alpha", drawn.choice((-800, 0, 9))), ("r", 1), ("use_rslora", True), ("use_dora", True),
        ("target_modules", ["layer.value"]), ("target_modules", [*found["target_modules"], "layer.value"]),
        ("alpha_pattern", {"layer.query": 4000}), ("rank_pattern", {"layer.query": 1}), ("layers_to_transform", [3]),
        ("modules_to_save", ["classifier"]), ("base_model_name_or_path", "elsewhere/tiny"), ("peft_type", "IA3"),
        ("auto_mapping", {"parent_library": "os", "base_model_class": "system"}), ("init_lora_weights", "pissa"),
    )  # fmt: skip
    name, value = drawn.choice(changes)
    path.write_text(json.dumps(found | {name: value}))
    rebound(run)


def another_class_is_built(drawn: random.Random, run: Path) -> None:
    """PEFT is told to import a class of its own choice and to build the base model by it."""
    path = run / "adapter" / CONFIG
    named = drawn.choice((
        ("transformers.models.bert.modeling_bert", "BertForNextSentencePrediction"),
        ("transformers.models.auto.modeling_auto", "AutoModelForMaskedLM"),
        ("securefl.training.saving", "load"), ("transformers.pipelines", "pipeline"), ("transformers.", ""),
    ))  # fmt: skip
    mapping: dict[str, object] = {"parent_library": named[0], "base_model_class": named[1]}
    if drawn.random() < 0.3:
        del mapping["parent_library"]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_mapping": mapping}))
    rebound(run)


def a_setting_of_another_kind(drawn: random.Random, run: Path) -> None:
    """A setting looks as if it changed nothing, and is of another kind: what is off for one is a layer to another."""
    path = run / "adapter" / CONFIG
    changes: tuple[tuple[str, object], ...] = (
        ("use_dora", "none"), ("alora_invocation_tokens", "none"), ("layers_to_transform", False), ("kasa_config", {}),
        ("layers_to_transform", 0), ("bias", False), ("lora_dropout", False), ("use_qalora", 0),
        ("loftq_config", False), ("trainable_token_indices", 0), ("layers_pattern", "none"),
        ("exclude_modules", "none"),
    )  # fmt: skip
    name, value = drawn.choice(changes)
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    rebound(run)


def numbers_of_another_type(drawn: random.Random, run: Path) -> None:
    """The released bytes are said to be of another type: what loads them finds other numbers in them."""
    path = run / "adapter" / drawn.choice((FACTORS, "head.safetensors"))
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    for name in drawn.sample(sorted(set(header) - {"__metadata__"}), drawn.randint(1, 2)):
        header[name]["dtype"] = "I32"
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    rebound(run)


@cache
def _prompted() -> tuple[Path, bytes, Plan]:
    """An adapter whose head is a prompt, as a run leaves it; its state; and a plan of the run."""
    from tests.support import tiny_models  # noqa: PLC0415
    from tests.training import test_training_prompt as prompts  # noqa: PLC0415

    made = Path(mkdtemp(prefix="prompted-"))
    of = prompts.shared(made / "model")
    state, out = of.initial(), made / "run" / "adapter"
    of.save(state, out)
    evidence.keep_state(out.parent, state, of.layout)
    return out, state, tiny_models.plan(of)


def another_gap(number: int, folder: Path) -> Outcome:
    """What is said beside a prompt's head has its answer read at another token than the gap, or in another pattern."""
    made, state, plan = _prompted()
    drawn, out = random.Random(number), folder / "adapter"  # noqa: S311 - trials that can be repeated
    shutil.copytree(made, out)
    path = out / "head.safetensors"
    tensors, data = dict(load(path.read_bytes())), path.read_bytes()
    said = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["securefl"])
    changes: tuple[tuple[str, object], ...] = (
        ("gap", drawn.randrange(128)), ("gap", -1), ("gap", 10**9), ("gap", True), ("gap", [4]), ("gap", None),
        ("mask", 4), ("pattern", said["pattern"].replace("[MASK]", "a")),
    )  # fmt: skip
    name, value = drawn.choice(changes)
    path.write_bytes(save(tensors, {"securefl": json.dumps(said | {name: value})}))
    try:
        adapter_files.check(out, state, plan)
    except Tampered as fault:
        return Outcome(succeeded=False, stopped_by=fault.why)
    return Outcome(succeeded=True, stopped_by="")


def labels_turned_round(drawn: random.Random, run: Path) -> None:
    """What a number of the head's answer means is turned round: beside it, in it, or in both."""
    adapter, how = run / "adapter", drawn.randrange(3)
    labels = json.loads((adapter / "labels.json").read_text())
    if how != 1:
        (adapter / "labels.json").write_text(
            json.dumps(drawn.choice((labels[::-1], [*labels, "z"], {"labels": labels})))
        )
    if how != 0:
        path = adapter / "head.safetensors"
        tensors = dict(load(path.read_bytes()))
        size = int.from_bytes(path.read_bytes()[:8], "little")
        said = json.loads(json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]["securefl"])
        more = {"gap": 3} if drawn.random() < 0.5 else {"labels": labels[::-1]}
        path.write_bytes(save(tensors, {"securefl": json.dumps(said | more)}))
    rebound(run)


def a_tensor_twice(drawn: random.Random, run: Path) -> None:
    """The header of a file names a tensor twice, or tensors that overlap: two readers load two things."""
    path = run / "adapter" / FACTORS
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    name = next(each for each in header if "lora_B" in each)
    other = next(each for each in header if "lora_A" in each)
    if drawn.random() < 0.5:
        again = header[name] | {"data_offsets": [each + 4 for each in header[name]["data_offsets"]]}
        text = "{" + f"{json.dumps(name)}: {json.dumps(again)}, " + json.dumps(header)[1:]
    else:
        buffer = len(data) - 8 - size
        header["x"] = header[other] | {"data_offsets": [buffer, buffer + 64]}
        text, data = json.dumps(header), data + drawn.randbytes(64)
    path.write_bytes(len(text).to_bytes(8, "little") + text.encode() + data[8 + size :])
    rebound(run)


def another_layout(drawn: random.Random, run: Path) -> None:
    """The layout and the file are changed alike: names, order or rule; the state is the one that was released."""
    path = run / "adapter" / "layout.json"
    if not path.is_file():
        return renamed(drawn, run)
    found = json.loads(path.read_text())
    old, new = drawn.choice((("query", "value"), ("layer", "layers")))
    for each in found["tensors"]:
        each["name"] = each["name"].replace(old, new)
    if drawn.random() < 0.3:
        found["rule"] = "both"
    path.write_text(json.dumps(found, indent=1) + "\n")
    settings = json.loads((run / "adapter" / CONFIG).read_text())
    settings["target_modules"] = [each.replace(old, new) for each in settings["target_modules"]]
    (run / "adapter" / CONFIG).write_text(json.dumps(settings))

    def change(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[name.replace(old, new)] = tensors.pop(name)

    return _changed(run, change)


ATTEMPTS: tuple[Attempt, ...] = (
    Attempt("the released tensors stand under names that PEFT does not know", tried(renamed)),
    Attempt("a decoy shifts the released tensors by one layer", tried(shifted)),
    Attempt("the released tensors stand in other shapes", tried(reshaped)),
    Attempt("factors that never change are changed", tried(never_changing_factors)),
    Attempt("another file is loaded than the one that was checked", tried(another_file_is_loaded)),
    Attempt("PEFT is told to make another model of the released tensors", tried(other_settings)),
    Attempt("PEFT is told by which class a base model is built", tried(another_class_is_built)),
    Attempt("PEFT is told a setting of another kind than the neutral one", tried(a_setting_of_another_kind)),
    Attempt("a prompt's answer is read at another token than its gap", another_gap),
    Attempt("the released numbers are read as of another type", tried(numbers_of_another_type)),
    Attempt("labels of the adapter are turned round", tried(labels_turned_round)),
    Attempt("a file of tensors has two readings", tried(a_tensor_twice)),
    Attempt("layout and tensors are renamed alike", tried(another_layout)),
)
