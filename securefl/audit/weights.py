"""Is what PEFT loads the state that was released? Tensor by tensor, from the files alone.

A state is all tensors that can change, in the order of their names, as float32; the head's bias and weight come last.
A file that says otherwise in any byte is found. What a state does not hold is listed: factors that never change, the
head's bias, which is stored on other features than it was trained on, and the head of a prompt, which is not trained.
Behind a state of attention with a residual stands what the strategy alone reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from securefl.errors import Tampered
from securefl.terms import Plan

FILES, HEAD = ("adapter_model.safetensors", "adapter.safetensors", "model.safetensors"), "head.safetensors"
FACTORS = (".lora_A.", ".lora_B.")


def check(adapter: Path, state: bytes, plan: Plan | None) -> tuple[frozenset[str], tuple[str, ...]]:
    """The files' names whose tensors are those of the state, and what in them is not compared.

    ``plan`` is a plan of the run, from the ledgers: it says whether a head is trained and what stands behind a state.

    Raises:
        Tampered: a file cannot be read, or holds other tensors.
    """
    trained = plan is None or plan.task.kind != "prompt"
    attention = None if plan is None else plan.sharing.attention
    head = _read(adapter / HEAD) if (adapter / HEAD).is_file() else {}
    here = [name for name in FILES if (adapter / name).is_file()]
    if len(here) > 1:
        raise Tampered(f"{adapter.name}/{here[1]}", f"tensors beside those of {here[0]}: one of them is another run's")
    tail = head.get("weight", b"") if trained else b""
    if tail and not state.endswith(tail):
        raise Tampered(f"{adapter.name}/{HEAD}", "its weight is not the one in the state that was released")
    rest = len(state) - len(tail) - (len(head.get("bias", b"")) if trained else 0)
    compared = frozenset((HEAD,) if head and trained else ())
    notes = [f"{adapter.name}/{HEAD}: its bias is bound as written, not compared"] if head and trained else []
    if not here:
        return compared, tuple(notes)
    tensors = _read(adapter / here[0])
    lengths = set()
    for kept in (FACTORS, FACTORS[1:]):  # both factors change, or B alone
        found = {name: each for name, each in tensors.items() if _changes(name, kept)}
        joined = b"".join(found[name] for name in sorted(found, key=_in_memory))
        whole = len(joined) == rest or (attention is not None and attention.residual and len(joined) < rest)
        if joined and whole and joined == state[: len(joined)]:
            if len(found) < len(tensors):
                notes.append(f"{adapter.name}/{here[0]}: factors that never change are bound as written, not compared")
            return compared | {here[0]}, tuple(notes)
        lengths.add(len(joined))
    if rest in lengths:
        raise Tampered(f"{adapter.name}/{here[0]}", "not the tensors of the state that was released")
    raise Tampered(f"{adapter.name}/{here[0]}", "more or fewer numbers than the state that was released")


def _changes(name: str, factors: Iterable[str]) -> bool:
    return any(each in name for each in factors) or not any(each in name for each in FACTORS)


def _in_memory(name: str) -> str:
    """A tensor's name as it is trained: PEFT leaves its adapter's own name out of the file."""
    for factor in FACTORS:
        name = name.replace(f"{factor}weight", f"{factor}default.weight")
    return name


def _read(path: Path) -> Mapping[str, bytes]:
    """Each tensor's numbers as a state holds them: float32, little endian."""
    from safetensors.numpy import load  # noqa: PLC0415

    try:
        return {name: each.astype("<f4").tobytes() for name, each in load(path.read_bytes()).items()}
    except Exception as fault:  # whatever the reader raises, this is no file of tensors
        raise Tampered(f"{path.parent.name}/{path.name}", f"no tensors: {fault}") from fault
