"""What a one-process run can see and a real federation cannot: accuracy on everybody's held-out rows, and seconds.

Accuracy on held-out rows is a private statistic. Here one person runs all sites, so it is shown, and marked as such; at a
real site it stays where it is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from securefl.audit import replay
from securefl.ledger import export
from securefl.progress import Progress
from securefl.terms import Got, Level, MemberId, Opening, Plan, Reserved, Scheme, Sent, Update

if TYPE_CHECKING:
    from securefl.federation import Arms
    from securefl.federation_file import Loaded
    from securefl.policy.load import Policy
    from securefl.protocol import coordinator as c
    from securefl.training.data import Records
    from securefl.training.evaluate import Scores
    from securefl.training.trainer import SharedModel

NOTE = "bench only, not released"


class Stopwatch:
    """Seconds per link, kept in a file so that an interrupted run does not forget them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    @contextmanager
    def __call__(self, link: str) -> Iterator[None]:
        """The block's seconds are added to ``link``."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[link] = self.seconds.get(link, 0.0) + time.monotonic() - began
            self._path.write_text(json.dumps(self.seconds))

    def wrap(self, link: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - whatever the call takes and gives
            with self(link):
                return call(*args, **kwargs)

        return timed


class Timed:
    """An object whose methods are timed under one link."""

    def __init__(self, inner: Any, watch: Stopwatch, link: str) -> None:  # noqa: ANN401 - any plug
        self._inner, self._watch, self._link = inner, watch, link

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the plug's own attribute
        value = getattr(self._inner, name)
        return self._watch.wrap(self._link, value) if callable(value) else value


@dataclass(frozen=True, slots=True)
class Measured:
    """Scores on each member's held-out rows."""

    before: Mapping[str, Scores]
    after: Mapping[str, Scores] | None
    local: Mapping[str, Scores] | None
    open_: Mapping[str, Scores] | None  # trained without privacy


def measure(
    shared: SharedModel, start: bytes, ended: c.Ended, records: Mapping[str, Records], plan: Plan, arms: Arms,
    shown: Progress,
) -> Measured:  # fmt: skip
    """Score the first and the last adapter state, and whatever else was asked for."""

    def score(state_of: Callable[[str], bytes]) -> dict[str, Scores]:
        return {name: shared.evaluate(state_of(name), part.heldout) for name, part in records.items()}

    before = score(lambda _: start)
    after = score(lambda _: ended.course.state) if ended.last_round else None
    local = open_ = None
    rounds = ended.course.rounds
    if arms.local:
        shown.say("training each member alone, with the same noise (not released)")
        alone = {name: train_alone(shared, start, part, plan, rounds, private=True) for name, part in records.items()}
        local = score(alone.__getitem__)
    if arms.without_privacy:
        shown.say("training the federation without privacy (not released)")
        state = train_openly(shared, start, records, plan, rounds)
        open_ = score(lambda _: state)
    return Measured(before, after, local, open_)


def train_alone(shared: SharedModel, start: bytes, part: Records, plan: Plan, rounds: int, *, private: bool) -> bytes:
    """One member's own adapter after as many steps as the federation took, with the same noise."""
    import os  # noqa: PLC0415

    import numpy as np  # noqa: PLC0415

    assert private, "local training without noise is what `train_openly` is for"
    state = start
    for _ in range(rounds):
        update: Update = shared.train(plan, state, part.train, os.urandom)
        state = (np.frombuffer(state, "<f4").astype(np.float64) + update.values).astype("<f4").tobytes()
    return state


def train_openly(shared: SharedModel, start: bytes, records: Mapping[str, Records], plan: Plan, rounds: int) -> bytes:
    """The federation's adapter without clipping, noise or protection."""
    import numpy as np  # noqa: PLC0415

    state = start
    for number in range(rounds):
        states = [
            np.frombuffer(shared.train_without_privacy(plan, state, part.train, seed=number), "<f4").astype(np.float64)
            for part in records.values()
        ]
        state = np.mean(states, axis=0).astype("<f4").tobytes()
    return state


def _pooled(scores: Mapping[str, Scores]) -> dict[str, float]:
    """Accuracy, macro-F1 and majority share over all members' held-out rows together."""
    from securefl.training.evaluate import pooled  # noqa: PLC0415

    total = pooled(scores.values())
    return {"accuracy": total.accuracy, "macro_f1": total.macro_f1, "majority": total.majority}
