"""WorldLM-style federations: a backbone that is averaged plainly, and key tensors that meet by attention.

After Iacob et al. (2024), whose attention and routing are reconstructed here for a coordinator that sees sums alone. A
member scores itself: it knows its own change and the broadcast tensor, and that is all a score is made of that leaves.
Attention is then a ratio of two sums, to which the coordinator adds its own term. Residuals are pulled: the broadcast
carries one, made of a second sum, and each member decides by its own attention how much of it to take.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from securefl.errors import Forged, Malformed
from securefl.strategy import adapter_state
from securefl.strategy.server import Optimizer
from securefl.terms import AdapterRule, Aggregate, Attention, Sharing
from securefl.terms.layout import Layout, named
from securefl.terms.uploads import check_weight

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]


def cosine(a: Vector, b: Vector) -> float:
    """In [-1, 1]; 0 where one of them has no direction."""
    import numpy as np  # noqa: PLC0415

    longest = [float(np.abs(each).max(initial=0.0)) for each in (a, b)]
    if not all(0 < each < math.inf for each in longest):
        return 0.0
    a, b = a / longest[0], b / longest[1]  # so that no square is lost
    return min(max(float(a @ b) / (float(np.linalg.norm(a)) * float(np.linalg.norm(b))), -1.0), 1.0)


def score(attention: Attention, a: Vector, b: Vector) -> float:
    """Return how much two changes have to say to each other, within +-clip."""
    clip = float(attention.clip)
    return min(max(float(attention.sharpness) * cosine(a, b), -clip), clip)


def broadcast(layout: Layout, attention: Attention, state: bytes) -> bytes:
    """The first broadcast for a state: where there are residuals, its own key tensors stand behind it as one."""
    return state + adapter_state.cut(state, layout.keys(attention)) if attention.residual else state


def mixed(layout: Layout, attention: Attention, origin: bytes, base: bytes, kept: bytes) -> bytes:
    """The state a member trains from: the broadcast backbone, and each key tensor as its own attention mixes it.

    Of its own tensor, the broadcast one and the residual, by how alike each is to its own. Without one of its own yet,
    the broadcast.

    Raises:
        Malformed: a state of another length.
    """
    import numpy as np  # noqa: PLC0415

    whole = adapter_state.zeros(layout.entries)
    expected = len(broadcast(layout, attention, whole))
    if len(base) != expected or len(kept) not in (0, len(whole)):
        raise Malformed(f"a state of {len(base)} bytes and an own one of {len(kept)}, where {expected} are expected")
    model, behind = adapter_state.split(base, layout.entries)
    if not kept:
        return model
    start, given, own = _reals(layout, origin), _reals(layout, model), _reals(layout, kept)
    made, left = given.copy(), adapter_state.reals(behind)
    for key in layout.keys(attention):
        candidates = [own[key], given[key]]
        if attention.residual:
            size = key.stop - key.start
            candidates, left = [*candidates, left[:size]], left[size:]
        shares = np.exp([score(attention, own[key] - start[key], each - start[key]) for each in candidates])
        made[key] = np.average(candidates, axis=0, weights=shares)
    return adapter_state.stored(made)


def sent(layout: Layout, attention: Attention, origin: bytes, base: bytes, begun: bytes, after: bytes) -> Vector:
    """Return what leaves a member, as this round's changes from the state it began with: (dimension,).

    The backbone's; then for each sum every key tensor times its weight, and behind them the weights. Scored is what the
    coordinator adds up, the broadcast's tensor as the change moves it: a weight says nothing of what a member kept.
    """
    import numpy as np  # noqa: PLC0415

    model, _ = adapter_state.split(base, layout.entries)
    given, fresh = _reals(layout, model), _reals(layout, after) - _reals(layout, begun)
    keys, went = layout.keys(attention), given - _reals(layout, origin)
    scores = [score(attention, went[key] + fresh[key], went[key]) for key in keys]
    parts = [fresh[part] for part in layout.backbone(attention)]
    for sign in (1, -1)[: 1 + attention.residual]:
        weights = [math.exp(sign * each - float(attention.clip)) for each in scores]
        parts += [weight * fresh[key] for weight, key in zip(weights, keys, strict=True)]
        parts.append(np.array(weights))
    return np.concatenate(parts)


@dataclass(frozen=True, slots=True)
class AttentionServer:
    """The coordinator's half: a server optimizer on the backbone, attention on the keys.

    A state is the model's, and behind it, where there are residuals, one for each key tensor.

    Raises:
        ValueError: a key in no tensor's name; no backbone left; a rule that changes what the numbers mean.
    """

    layout: Layout
    inner: Optimizer
    attention: Attention
    origin: bytes = b""  # as the members' halves have it

    def __post_init__(self) -> None:
        if self.layout.rule not in (AdapterRule.B_ONLY, AdapterRule.BOTH):
            raise ValueError(f"own models with the rule {self.layout.rule.value}: use b-only")
        names = [tensor.name for tensor in self.layout.tensors]
        for each in self.attention.keys:
            if not any(named(name, (each,)) for name in names):
                raise ValueError(f"no tensor has {each} in its name: {', '.join(names)}")
        if not self.layout.backbone(self.attention):
            raise ValueError("every tensor is a key: there is no backbone")

    def broadcast(self, state: bytes) -> bytes:
        """The first state that goes out: the model's, with its residuals."""
        return broadcast(self.layout, self.attention, state)

    def dimension(self, round_: int, state: bytes) -> int:
        """The backbone, and the keys with their weights for each sum."""
        del state
        return self.layout.dimension(round_, Sharing(attention=self.attention))

    def begin(self, state: bytes) -> bytes:
        """Return what the optimizer remembers at first, of the backbone."""
        return self.inner.begin(self._backbone(state))

    def advance(self, round_: int, state: bytes, memory: bytes, aggregate: Aggregate) -> tuple[bytes, bytes]:
        """The state of the next round, with its residuals; and what the optimizer remembers, of the backbone.

        Raises:
            Forged: weights that no honest members have.
        """
        import numpy as np  # noqa: PLC0415

        del round_
        model, _ = adapter_state.split(state, self.layout.entries)
        start, now = _reals(self.layout, self.origin), _reals(self.layout, model)
        moved, keys = now.copy(), self.layout.keys(self.attention)
        backbone, moments = self._moved(state, memory, aggregate)
        values = adapter_state.reals(backbone)
        for part in self.layout.backbone(self.attention):
            moved[part], values = values[: part.stop - part.start], values[part.stop - part.start :]
        sums = np.split(self._sums(aggregate)[adapter_state.entries(backbone) :], 1 + self.attention.residual)
        for key, (change, weight) in zip(keys, self._parts(sums[0], aggregate), strict=True):
            own = score(self.attention, now[key] - start[key], now[key] - start[key])
            moved[key] += change / (weight + math.exp(own - float(self.attention.clip)))
        residuals = [
            now[key] + change / weight
            for part in sums[1:]
            for key, (change, weight) in zip(keys, self._parts(part, aggregate), strict=True)
        ]
        return adapter_state.stored(np.concatenate([moved, *residuals])), moments

    def _moved(self, state: bytes, memory: bytes, aggregate: Aggregate) -> tuple[bytes, bytes]:
        backbone = self._backbone(state)
        mean = self._sums(aggregate)[: adapter_state.entries(backbone)] / len(aggregate.survivors)
        return self.inner.move(backbone, memory, mean)

    def _backbone(self, state: bytes) -> bytes:
        return adapter_state.cut(state, self.layout.backbone(self.attention))

    def _parts(self, part: Vector, aggregate: Aggregate) -> list[tuple[Vector, float]]:
        """Each key tensor's weighted change and what to divide it by."""
        keys, members = self.layout.keys(self.attention), len(aggregate.survivors)
        weights, found = part[-len(keys) :], []
        grid = float(1 << aggregate.encoding.fraction_bits)
        for key, weight in zip(keys, weights, strict=True):
            check_weight(self.attention.clip, weight, members, grid)
            if weight <= members / grid:
                raise Forged(f"weights of {members} members add up to {weight:g}, too little to divide by")
            size = key.stop - key.start
            found.append((part[:size], float(weight)))
            part = part[size:]
        return found

    def _sums(self, aggregate: Aggregate) -> Vector:
        return aggregate.total / float(1 << aggregate.encoding.fraction_bits)


def _reals(layout: Layout, state: bytes) -> Vector:
    """A state's entries; zeros for none."""
    import numpy as np  # noqa: PLC0415

    return adapter_state.reals(state) if state else np.zeros(layout.entries)
