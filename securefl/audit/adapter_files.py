"""Is what PEFT, or our own store, loads from an adapter's folder the state that was released, for the task of the plan?

A plan names the layout of its state by a digest, and each member held it against its own model: so names, shapes and
order of all tensors are known from ``layout.json``. Every file is the one that follows from plan, layout and state, and
there is no other that anything could load. What a state does not hold is listed: the head's bias, which is stored on
other features than it was trained on, the head of a prompt, and what of a whole language model is not trained.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from securefl import wire
from securefl.audit import json_files, tensor_files
from securefl.errors import Tampered
from securefl.terms import AdapterKind, AdapterRule, Plan, adapter_start
from securefl.terms.layout import A, B, Layout, Tensor

ADAPTER = "adapter"
LAYOUT, STATE, README = "layout.json", "released.f32", "README.md"
FACTORS, OWN, WHOLE = "adapter_model.safetensors", "adapter.safetensors", "model.safetensors"
HEAD, LABELS, CONFIG, FACTS = "head.safetensors", "labels.json", "adapter_config.json", "adapter.json"
ENCODER, INNER, DEFAULT = "encoder.", "base_model.model.", "default."
ROUNDING = 2.0**-20  # of an entry of a factor that starts with rows of length 1: another machine's last digits
# What a setting of PEFT is where it changes nothing: each of its own kind, for False is a layer's number to another.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "bias": ("none",), "lora_dropout": (0.0, 0), "rank_pattern": ({},), "alpha_pattern": ({},), "loftq_config": ({},),
    "use_dora": (False,), "lora_bias": (False,), "use_qalora": (False,), "ensure_weight_tying": (False,),
    # of no effect, or corrected by PEFT itself
    "inference_mode": (True, False), "fan_in_fan_out": (True, False), "init_lora_weights": (True,),
    "megatron_core": ("megatron.core",), "qalora_group_size": (16,),
}  # fmt: skip
Stored = tuple[tuple[int, ...], bytes]  # a tensor's shape and numbers
IN_THE_GAP = "the masked language model's head in the gap"  # what a prompt's head is shown


@dataclass(frozen=True, slots=True)
class _Kind:
    """Which files an adapter of a plan is saved as."""

    tensors: str  # the file of tensors; empty where the head is all there is
    files: frozenset[str]


def layout_text(layout: Layout) -> str:
    """Return what ``layout.json`` holds."""
    tensors = [{"name": each.name, "shape": each.shape} for each in layout.tensors]
    return json.dumps({"rule": layout.rule, "tensors": tensors}, indent=1) + "\n"


def check(folder: Path, state: bytes, plan: Plan) -> tuple[frozenset[str], tuple[str, ...]]:
    """The names of the files that follow from plan, layout and state, and what in them does not.

    Raises:
        Tampered: a file is missing, is another, or stands there although nothing says what it should hold.
    """
    kind = _kind(plan)
    for path in sorted(folder.iterdir()):
        if path.name not in kind.files or not path.is_file():
            raise Tampered(_name(path), "no file of such an adapter: it may be loaded, and nothing says what it is")
    layout = layout_of(folder / LAYOUT, plan)
    named = _named(layout, state, plan, folder / STATE)
    checked, notes = {LAYOUT, STATE}, list[str]()
    if kind.tensors:
        notes += _check_tensors(folder / kind.tensors, named, layout, plan)
        checked.add(kind.tensors)
    for name, check_one in ((CONFIG, _check_config), (FACTS, _check_facts), (LABELS, _check_labels)):
        if name in kind.files:
            check_one(folder / name, layout, plan)
            checked.add(name)
    if HEAD in kind.files:
        notes += _check_head(folder / HEAD, named, plan)
        checked.add(HEAD)
    return frozenset(checked), tuple(notes)


def check_alone(folder: Path, state: bytes, plan: Plan) -> frozenset[str]:
    """The names of the two files of a state that was left without a model to load it: its layout, and the state.

    Raises:
        Tampered: another file stands beside them, or one is not what plan and layout give.
    """
    for path in sorted(folder.iterdir()):
        if path.name not in (LAYOUT, STATE) or not path.is_file():
            raise Tampered(_name(path), "beside a state left alone: it may be loaded, and nothing says what it is")
    _named(layout_of(folder / LAYOUT, plan), state, plan, folder / STATE)
    return frozenset({LAYOUT, STATE})


def layout_of(path: Path, plan: Plan) -> Layout:
    """The layout that the plan names.

    Raises:
        Tampered: the file is missing, or holds another.
    """
    found = json_files.mapping(path, _name(path))
    try:
        tensors = tuple(Tensor(each["name"], tuple(each["shape"])) for each in found["tensors"])
        layout = Layout(tensors, AdapterRule(found["rule"]))
        same = wire.layout_digest(layout) == plan.layout and found == json.loads(layout_text(layout))
    except (KeyError, TypeError, ValueError) as fault:
        raise Tampered(_name(path), f"no layout: {fault}") from fault
    if not same:
        raise Tampered(_name(path), "not the layout that the run's plans name")
    return layout


def _kind(plan: Plan) -> _Kind:
    adapter, language = plan.adapter, plan.task.kind == "language"
    tensors = WHOLE if language else OWN
    if adapter.kind.has_factors:
        tensors = FACTORS
    elif adapter.kind is AdapterKind.HEAD:
        tensors = ""
    more = {CONFIG} if tensors == FACTORS else {FACTS} if tensors else set()
    more |= {FACTS} if language else {HEAD, LABELS}
    return _Kind(tensors, frozenset({LAYOUT, STATE, README, *more, *({tensors} if tensors else ())}))


def _named(layout: Layout, state: bytes, plan: Plan, path: Path) -> dict[str, Stored]:
    """Shape and numbers of each tensor, as the state has them."""
    attention = plan.sharing.attention
    behind = sum(key.stop - key.start for key in layout.keys(attention)) if attention and attention.residual else 0
    if len(state) != 4 * (layout.entries + behind):
        raise Tampered(_name(path), f"{len(state)} bytes, and its layout has {4 * (layout.entries + behind)}")
    places = layout.places()
    return {
        each.name: (each.shape, state[4 * places[each.name].start : 4 * places[each.name].stop])
        for each in layout.tensors
    }


def _check_tensors(path: Path, named: Mapping[str, Stored], layout: Layout, plan: Plan) -> tuple[str, ...]:
    """Each tensor of the file is the one of its name in the state, or follows from the seed; or is a frozen one."""
    file = tensor_files.read(path, _name(path))
    found = dict(file.tensors)
    if file.others and path.name != WHOLE:
        raise Tampered(_name(path), f"the numbers of {min(file.others)} are not float32")
    for name, (shape, numbers) in named.items():
        if not name.startswith(ENCODER):
            continue
        key = name.removeprefix(ENCODER).replace(f"{A}{DEFAULT}", A).replace(f"{B}{DEFAULT}", B)
        here = found.pop(key, None)
        if here is None or here[0] != shape or key in file.others:
            raise Tampered(_name(path), f"no float32 tensor {key} of shape {shape}, which the layout has")
        if here[1] != numbers:
            raise Tampered(_name(path), f"{key} is not what the state that was released has")
    if plan.adapter.kind.has_factors:
        _check_frozen(path, found, layout, plan)
    elif path.name == WHOLE:
        return (f"{_name(path)}: {len(found)} tensors that never change: bound as written, not compared",) * bool(found)
    if found:
        raise Tampered(_name(path), f"a tensor {min(found)}, which the layout does not have")
    return ()


def _check_frozen(path: Path, found: dict[str, Stored], layout: Layout, plan: Plan) -> None:
    """Each factor A that never changes is what the plan's seed makes of its name. Takes those from what is found."""
    import numpy as np  # noqa: PLC0415

    have = {each.name for each in layout.tensors}
    for name in sorted(each.replace(B, A) for each in have if B in each and each.replace(B, A) not in have):
        key = name.removeprefix(ENCODER).replace(f"{A}{DEFAULT}", A)
        shape, numbers = found.pop(key, ((), b""))
        if len(shape) != 2 or not shape[0] == plan.adapter.rank <= shape[1] or len(numbers) != 4 * shape[0] * shape[1]:
            raise Tampered(_name(path), f"no factor {key} of rank {plan.adapter.rank}")
        due = adapter_start.orthonormal(plan.adapter.seed, name, (shape[0], shape[1]))
        if not np.abs(np.frombuffer(numbers, "<f4").reshape(shape) - due).max() <= ROUNDING:  # NaN is refused too
            raise Tampered(_name(path), f"{key} never changes, and is not what the plan's seed makes of it")


def _check_config(path: Path, layout: Layout, plan: Plan) -> None:
    """PEFT puts the adapter on the layout's layers, as the plan says, and does nothing else."""
    found, adapter = json_files.mapping(path, _name(path)), plan.adapter
    inner = f"{ENCODER}{INNER}"
    layers = {each.name.removeprefix(inner).partition(B)[0] for each in layout.tensors if B in each.name}
    due: dict[str, Any] = {
        "peft_type": "LORA", "r": adapter.rank, "lora_alpha": adapter.alpha,
        "use_rslora": adapter.kind is AdapterKind.RSLORA, "base_model_name_or_path": plan.model.name,
    }  # fmt: skip
    for name, value in due.items():
        if type(found.get(name)) is not type(value) or found[name] != value:
            raise Tampered(_name(path), f"{name} is {found.get(name)!r:.80}; the plan says {value!r}")
    targets = found.get("target_modules")
    if not isinstance(targets, list) or sorted(map(str, targets)) != sorted(layers):
        raise Tampered(_name(path), f"target_modules are {targets!r:.200}; the layout has {', '.join(sorted(layers))}")
    for name, value in found.items():
        fits = value is None or any(type(value) is type(each) and value == each for each in NEUTRAL.get(name, ()))
        if name not in due and name not in _APART and not fits:
            raise Tampered(_name(path), f"{name} is {value!r:.80}, which nothing asked for")
    if not re.fullmatch(r"\d[\w.+@-]{0,79}", str(found.get("peft_version", "0"))):
        raise Tampered(_name(path), f"peft_version is {found['peft_version']!r:.80}")


_APART = ("target_modules", "peft_version")


def _check_facts(path: Path, layout: Layout, plan: Plan) -> None:
    del layout
    due = json.loads(json.dumps({"base": plan.model.name, **asdict(plan.adapter)}))
    if json_files.mapping(path, _name(path)) != due:
        raise Tampered(_name(path), "not the adapter and the base of the plan")


def _check_labels(path: Path, layout: Layout, plan: Plan) -> None:
    del layout
    try:
        found = json_files.loads(path.read_bytes())
    except (OSError, ValueError) as fault:
        raise Tampered(_name(path), f"cannot be read: {fault}") from fault
    if found != list(plan.task.labels):
        raise Tampered(_name(path), "not the labels of the plan, in their order")


def _check_head(path: Path, named: Mapping[str, Stored], plan: Plan) -> tuple[str, ...]:
    """The head's weight is the state's, its shapes are the layout's, and what is said beside it is the plan's."""
    found = tensor_files.read(path, _name(path))
    features = plan.adapter.features
    beside = "bias" if features is None else "center"  # features have a constant, whose weights are the head's bias
    if set(found.tensors) != {"weight", beside} or found.others or set(found.said) != {"securefl"}:
        raise Tampered(_name(path), f"something else than a head's weight and {beside} in float32, and its facts")
    shapes = {f"head.{name}": shape for name, (shape, _) in found.tensors.items()}
    trained = {name: shape for name, (shape, _) in named.items() if name in shapes}
    labels = len(plan.task.labels)
    due_beside = (labels,) if features is None else (shapes["head.weight"][-1] - 1,)
    if any(shapes[name] != shape for name, shape in trained.items()) or shapes[f"head.{beside}"] != due_beside:
        raise Tampered(_name(path), f"of another shape than a head for {labels} labels in the layout")
    if "head.weight" in named and found.tensors["weight"][1] != named["head.weight"][1]:
        raise Tampered(_name(path), "its weight is not what the state that was released has")
    prompt, adapter = plan.task.prompt, plan.adapter
    pooled = IN_THE_GAP if prompt is not None else adapter.pooling.words
    due: dict[str, Any] = {"base": plan.model.name, "labels": plan.task.labels, "pooling": pooled}
    due |= {} if adapter.layer is None else {"layer": adapter.layer}
    if features is not None:
        bias = [features.bias.numerator, features.bias.denominator]
        due["features"] = {"centered": features.centered, "unit": features.unit, "bias": bias}
    try:
        said = json_files.loads(found.said["securefl"].encode())
    except (ValueError, AttributeError, TypeError) as fault:
        raise Tampered(_name(path), f"no facts beside it: {fault}") from fault
    due |= asdict(prompt) if prompt is not None else {}
    if said != json.loads(json.dumps(due)):
        raise Tampered(_name(path), "what is said of it is not what the plan says")
    if "head.weight" not in named:
        return (f"{_name(path)}: not trained: bound as written, not compared",)
    return (f"{_name(path)}: its {beside} is bound as written, not compared",)


def check_module(path: Path, state: bytes, layout: Layout, name: str) -> None:
    """Check that a module's file holds the state's tensors, by name, shape and number, and says their order.

    Raises:
        Tampered: otherwise.
    """
    found, start = tensor_files.read(path, name), 0
    if set(found.said) != {"order"} or found.said["order"] != json.dumps([each.name for each in layout.tensors]):
        raise Tampered(name, "not the order of the run's layout")
    if set(found.tensors) != {each.name for each in layout.tensors} or found.others:
        raise Tampered(name, "other tensors than the run's layout has, or not in float32")
    for each in layout.tensors:
        if found.tensors[each.name] != (each.shape, state[start : start + 4 * each.entries]):
            raise Tampered(name, f"{each.name} is not what the state that was released has")
        start += 4 * each.entries


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
