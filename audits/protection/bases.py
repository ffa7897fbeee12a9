"""One record more or less never moves the clipped sum by more than the clip, whatever base the coordinator chooses.

Random bases of ten kinds on small encoders: huge, tiny and denormal numbers, rank one, a constant that drowns what a
layer knows beside a layer that amplifies what rounding left of it, NaN and infinities. For each: the sum over a few
short records, the sum with a long one more, and that record alone. As a control, the same bases with the records
padded together, as a batch is padded elsewhere: there the neighbours' part moves too.

    python -m audits.protection.bases [--quick] [--bases 10000] [--json]
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audits.figures import figure, report
from securefl.errors import Malformed
from securefl.terms import Plan
from securefl.training import adapter_tensors, step
from securefl.training.shapes import Shapes
from securefl.training.shared_model import SharedModel
from tests.support import tiny_models

KINDS = ("ordinary", "huge", "tiny", "denormal", "rank one", "drowned", "sparse", "cancelling", "NaN", "infinite")
MODELS = ("bert", "llama", "gpt2")
TOKENS = 24
SHORT = ("ok", "late again", "thanks!", "so slow", "no bag")
CROWD = tuple(f"{first}{second}" for first in "abcdefgh" for second in ("", "o", "it", "an", "e!", "so", "my", "no"))
LONG = ("where is my bag and when", "when do you open today", "lost, and lost once more!")
Values = np.ndarray[Any, Any]
BEYOND = 1e-9  # of a clip
PIECE = 100  # bases that a process takes at once
CONTROLLED = 5  # every so many bases of a kind are tried as a control, too


@dataclass(frozen=True, slots=True)
class Moved:
    """How far one record more moved a sum, in clips."""

    by: float
    exactly: bool  # whether it moved by just what the record gives alone
    together: float | None = None  # the control: padded together


@cache
def model(kind: str) -> SharedModel:
    """A small encoder with its adapter, on one thread's worth of numbers."""
    with tempfile.TemporaryDirectory() as folder:
        return tiny_models.shared(kind, Path(folder))


def base(of: SharedModel, kind: str, number: int) -> bytes:
    """An adapter state of this kind, drawn by its number."""
    drawn = np.random.default_rng([number, KINDS.index(kind)])
    values = DRAWN[kind](of, drawn, drawn.normal(size=of.dimension))
    finite = kind != "infinite"
    with np.errstate(over="ignore"):
        return (np.clip(values, -3e38, 3e38) if finite else values).astype("<f4").tobytes()


def denormal(of: SharedModel, drawn: np.random.Generator, values: Values) -> Values:
    """All but the head's weights are below what float32 holds in full."""
    values *= 10 ** drawn.uniform(-45, -38)
    values[of.layout.places()["head.weight"]] = drawn.normal(size=32 * 3) * 10 ** drawn.uniform(0, 8)
    return values


def rank_one(of: SharedModel, drawn: np.random.Generator, values: Values) -> Values:
    """Every matrix is an outer product."""
    for tensor in of.layout.tensors:
        if len(tensor.shape) == 2:
            outer = np.outer(drawn.normal(size=tensor.shape[0]), drawn.normal(size=tensor.shape[1]))
            values[of.layout.places()[tensor.name]] = outer.ravel() * 10 ** drawn.uniform(-2, 8)
    return values


def spoiled(by: float, of: SharedModel, drawn: np.random.Generator, values: Values) -> Values:
    """Three entries are no finite numbers."""
    values[drawn.integers(of.dimension, size=3)] = by
    return values


def drowned(of: SharedModel, drawn: np.random.Generator, values: Values) -> Values:
    """Early layers add a constant that drowns the record; later ones amplify what float32 left of it."""
    if all("layer.1.attention.self.value" not in name for name in of.layout.places()):
        return drowned_blindly(of, drawn, values)
    values = np.zeros(len(values))
    places, shapes = of.layout.places(), {each.name: each.shape for each in of.layout.tensors}

    def put(part: str, matrix: Values) -> None:
        (name,) = [each for each in places if part in each]
        values[places[name]] = matrix.ravel()

    def shape(part: str) -> tuple[int, ...]:
        (found,) = [each for name, each in shapes.items() if part in name]
        return found

    seen, factor = meets(of, values, DROWNS)
    towards = (seen @ factor.T).mean(0)  # where public text points before the layer, so every token is drowned
    out = drawn.normal(size=shape(DROWNS)[0])
    put(DROWNS, 10 ** drawn.uniform(7, 9) * np.outer(out - out.mean(), towards / np.linalg.norm(towards)))
    amplify = 10 ** drawn.uniform(6, 11)
    for part in AMPLIFY:
        seen, factor = meets(of, values, part)
        constant = factor @ seen.mean(0)
        constant /= np.linalg.norm(constant)
        matrix = drawn.normal(size=shape(part))
        put(part, amplify * (matrix - np.outer(matrix @ constant, constant)))  # the constant itself goes through as 0
    put("head.weight", 100 * drawn.normal(size=shape("head.weight")))
    return values


DROWNS = "layer.0.attention.output.dense"
AMPLIFY = ("layer.1.attention.self.query", "layer.1.attention.self.value")


def meets(of: SharedModel, values: Values, part: str) -> tuple[Values, Values]:
    """What comes to a layer from public text at this state, (tokens, width), and the layer's factor A (rank, width)."""
    adapter_tensors.load(of._built, values.astype("<f4").tobytes())  # noqa: SLF001 - the attacker has the same model
    modules = of._built.model.named_modules()  # noqa: SLF001
    (layer,) = [module for name, module in modules if name.endswith(part) and hasattr(module, "lora_A")]
    found: list[torch.Tensor] = []
    hook = layer.register_forward_hook(lambda _, given, __: found.append(given[0]))
    public, where = of._public(), of._built.model.center.device  # noqa: SLF001
    ids, mask, _ = (each.to(where) for each in public.batch(range(len(public.ids))))
    with torch.no_grad():
        of._built.model(ids, mask)  # noqa: SLF001
    hook.remove()
    weight = layer.lora_A["default"].weight.detach()
    return found[0][mask.bool()].double().cpu().numpy(), weight.double().cpu().numpy()


def drowned_blindly(of: SharedModel, drawn: np.random.Generator, values: Values) -> Values:
    """The same without a look at what the layers meet, for models without such layers."""
    values = np.zeros(len(values))
    names = [tensor for tensor in of.layout.tensors if tensor.name != "head.bias"]
    drown, amplify = 10 ** drawn.uniform(2, 7), 10 ** drawn.uniform(2, 7)
    for tensor in names:
        place = of.layout.places()[tensor.name]
        if tensor.name == "head.weight":
            values[place] = drawn.normal(size=place.stop - place.start)
        elif ".0." in tensor.name:
            out = drawn.normal(size=tensor.shape[0])
            values[place] = drown * np.outer(out - out.mean(), np.abs(drawn.normal(size=tensor.shape[1]))).ravel()
        else:
            values[place] = amplify * drawn.normal(size=place.stop - place.start)
    return values


DRAWN: dict[str, Callable[[SharedModel, np.random.Generator, Values], Values]] = {
    "ordinary": lambda *given: 0.3 * given[2],
    "huge": lambda _, drawn, values: values * 10 ** drawn.uniform(1, 37),
    "tiny": lambda _, drawn, values: values * 10 ** drawn.uniform(-37, -2),
    "denormal": denormal,
    "rank one": rank_one,
    "drowned": drowned,
    "sparse": lambda _, drawn, values: np.where(
        drawn.random(len(values)) < 0.01, values * 10 ** drawn.uniform(2, 12), 0.1 * values
    ),
    "cancelling": lambda _, drawn, values: (
        0.1 * values + np.where(np.arange(len(values)) % 2, 1, -1) * 10 ** drawn.uniform(2, 7)
    ),
    "NaN": partial(spoiled, np.nan),
    "infinite": partial(spoiled, np.inf),
}


def plan(of: SharedModel) -> Plan:
    """A plan whose records have at most ``TOKENS`` tokens."""
    return tiny_models.plan(of, max_tokens=TOKENS)


def total(of: SharedModel, base: bytes, texts: tuple[str, ...], shapes: Shapes, rows: int = 32) -> Values:
    """The clipped sum of these records from this base."""
    encoded = encode(of, texts, shapes)
    adapter_tensors.load(of._built, base)  # noqa: SLF001 - the member's own model
    wrapped, parameters = of._wrapped, of._built.parameters  # noqa: SLF001
    return step.clipped_sum(wrapped, parameters, encoded, range(len(texts)), rows, Fraction(1)).values


def encode(of: SharedModel, texts: tuple[str, ...], shapes: Shapes) -> step.Encoded:
    """The records, each with a label that its own text decides."""
    found = of._tokens(texts, tuple(len(text) % 3 for text in texts), TOKENS)  # noqa: SLF001
    return step.Encoded(found.ids, found.labels, found.pad, None, shapes)


class Loose(Shapes):
    """As batches are padded elsewhere: to the longest record's own length."""

    def padded(self, length: int) -> int:
        """No token more."""
        return length


def padded_together(of: SharedModel, base: bytes, texts: tuple[str, ...]) -> Values:
    """The control: one batch, padded to its longest record."""
    encoded = encode(of, texts, Loose(TOKENS))
    adapter_tensors.load(of._built, base)  # noqa: SLF001
    batch = encoded.batch(range(len(texts)))
    found = step.per_record_gradients(of._wrapped, of._built.parameters, batch)  # noqa: SLF001
    return step.clipped(found, 1.0).cpu().numpy()


def moved(of: SharedModel, at: bytes, number: int, *, control: bool = False) -> Moved:
    """What one record more does to the sum at this base.

    Raises:
        Malformed: the base is no state at all.
    """
    drawn = np.random.default_rng([number, 99])
    some = tuple(drawn.permutation(SHORT)[: drawn.integers(1, len(SHORT) + 1)].tolist())
    one = str(drawn.choice(LONG))
    shapes = of.shapes(plan(of), at)
    with_it, without = total(of, at, (*some, one), shapes), total(of, at, some, shapes)
    alone = total(of, at, (one,), shapes)
    together = None
    if control:
        change = padded_together(of, at, (*CROWD, one)) - padded_together(of, at, CROWD)
        together = float(np.linalg.norm(change))
    change = with_it - without
    return Moved(float(np.linalg.norm(change)), bool(np.array_equal(change, alone)), together)


@dataclass
class Found:
    """What some bases came to."""

    most: dict[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 0.0))
    refused: int = 0
    inexact: int = 0
    together: float = 0.0
    together_beyond: int = 0


def search(numbers: range) -> Found:
    """The bases of these numbers, one after another."""
    torch.set_num_threads(1)
    found = Found()
    for number in numbers:
        kind, of = KINDS[number % len(KINDS)], model(MODELS[number // len(KINDS) % len(MODELS)])
        try:
            one = moved(of, base(of, kind, number), number, control=number // len(KINDS) % CONTROLLED == 0)
        except Malformed:
            found.refused += 1
            continue
        found.most[kind] = max(found.most[kind], one.by)
        found.inexact += not one.exactly
        found.together = max(found.together, one.together or 0.0)
        found.together_beyond += (one.together or 0.0) > 1 + BEYOND
    return found


def main() -> int:
    """0 if every figure holds, 1 if one does not."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="200 bases")
    options.add_argument("--bases", type=int, default=10_000)
    options.add_argument("--json", action="store_true")
    chosen = options.parse_args()
    bases = 200 if chosen.quick else chosen.bases
    pieces = [range(begin, min(begin + PIECE, bases)) for begin in range(0, bases, PIECE)]
    parts = []
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for part in pool.map(search, pieces):
            parts.append(part)
            print(f"\rbase {len(parts) * PIECE} of {bases}  ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    most = {kind: max(part.most[kind] for part in parts) for kind in KINDS[:-2]}
    refused, inexact = sum(part.refused for part in parts), sum(part.inexact for part in parts)
    together, beyond = max(part.together for part in parts), sum(part.together_beyond for part in parts)
    unfit = sum(KINDS[number % len(KINDS)] in ("NaN", "infinite") for number in range(bases))
    tried = sum(number // len(KINDS) % CONTROLLED == 0 for number in range(bases)) * 8 // 10
    figures = [
        *(
            figure(f"{kind}: most that one record moved the sum, clips", by, "<= 1 + 1e-9", by <= 1 + BEYOND)
            for kind, by in most.items()
        ),
        figure(f"of {bases} bases, those where it moved by more than its own part", inexact, "0", inexact == 0),
        figure("bases with NaN or infinity that were refused", refused, f"{unfit}, all", refused == unfit),
        figure("control, padded together: most that one record moved the sum, clips", together, "> 1", together > 1),
        figure(f"control: of {tried} bases, those beyond the clip", beyond, "> 0", beyond > 0),
    ]  # fmt: skip
    return report(figures, as_json=chosen.json)


if __name__ == "__main__":
    raise SystemExit(main())
