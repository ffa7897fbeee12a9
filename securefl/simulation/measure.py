"""What a one-process run can see and a real federation cannot: accuracy on everybody's held-out rows, and seconds.

Accuracy on held-out rows is a private statistic. Here one person runs all sites, so it is shown, and marked as such;
at a real site it stays where it is.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from securefl import __version__
from securefl.audit import figures
from securefl.audit.ledger_files import read_all
from securefl.errors import OperatorFault
from securefl.progress import Progress
from securefl.strategy.member import MemberStrategy
from securefl.terms import (
    Aggregate,
    CrossEntropy,
    FixedPoint,
    MemberId,
    Plan,
    PseudoLabels,
    Sharing,
    Unit,
    Update,
)  # fmt: skip

if TYPE_CHECKING:
    from securefl.documents.federation import Loaded
    from securefl.protocol import coordinator_state as c
    from securefl.seams import Strategy
    from securefl.training.data import Records
    from securefl.training.evaluate import Scores
    from securefl.training.language import Surprise
    from securefl.training.shared_model import SharedModel

NOTE = "bench only, not released"


class Stopwatch:
    """Seconds per link, kept in a file so that an interrupted run does not forget them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seconds: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    @contextmanager
    def __call__(self, link: str) -> Iterator[None]:
        """The block's seconds are added to ``link``."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[link] = self.seconds.get(link, 0.0) + time.monotonic() - began
            beside = self._path.with_name(self._path.name + ".new")
            beside.write_text(json.dumps(self.seconds), encoding="utf-8")
            beside.replace(self._path)

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
class Baselines:
    """What else is trained on this bench, for comparison; nothing of it is released."""

    local: bool = False
    without_privacy: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """Scores on each member's held-out rows."""

    before: Mapping[str, Scores | Surprise]
    after: Mapping[str, Scores | Surprise] | None
    broadcast: Mapping[str, Scores | Surprise] | None  # the last state itself, where members keep models of their own
    local: Mapping[str, Scores | Surprise] | None
    open_: Mapping[str, Scores | Surprise] | None  # trained without privacy


def measure(
    shared: SharedModel, start: bytes, ended: c.Ended, records: Mapping[str, Records], plan: Plan, strategy: Strategy,
    arms: Baselines, shown: Progress, own: Callable[[str], bytes],
) -> Measured:  # fmt: skip
    """Score the first adapter state, the last as each member uses it (``own``), and whatever else was asked for."""

    def score(state_of: Callable[[str], bytes]) -> dict[str, Scores | Surprise]:
        return {
            name: shared.evaluate(state_of(name), part.heldout, plan.learning.max_tokens)
            for name, part in records.items()
        }

    before = score(lambda _: start)
    after = score(own) if ended.last_round else None
    keeps = after is not None and plan.sharing.keeps
    broadcast = score(lambda _: ended.course.state) if keeps else None
    local = open_ = None
    rounds = ended.course.rounds
    if arms.local:
        noise = "without noise" if plan.learning.event.unit is Unit.CLIENT else "with the same noise"
        shown.say(f"training each member alone, {noise} (not released)")
        alone = {name: train_alone(shared, start, part, plan, rounds, private=True) for name, part in records.items()}
        local = score(alone.__getitem__)
    if arms.without_privacy:
        shown.say("training the federation without privacy (not released)")
        state = train_openly(shared, start, records, plan, ended.course.rates, strategy)
        open_ = score(lambda _: state)
    return Measured(before, after, broadcast, local, open_)


def train_alone(shared: SharedModel, start: bytes, part: Records, plan: Plan, rounds: int, *, private: bool) -> bytes:
    """One member's own adapter after as many steps as the federation took, with the same noise.

    Under unit client there is none: noise is added where an update leaves, and this one does not.
    """
    import os  # noqa: PLC0415

    import numpy as np  # noqa: PLC0415

    assert private, "local training without noise is what `train_openly` is for"
    state, room = start[: 4 * shared.dimension], shared.room()
    for number in range(1, rounds + 1):
        asked = _untaught(_of_round(plan, shared, number))
        update: Update = shared.train(asked, state, part.train, os.urandom, room=room)
        after, begun = np.frombuffer(state, "<f4").astype(np.float64), 0
        for place in shared.layout.trained(number):
            size = place.stop - place.start
            after[place] += update.values[begun : begun + size]
            begun += size
        state = after.astype("<f4").tobytes()
    return state


def _of_round(plan: Plan, shared: SharedModel, number: int) -> Plan:
    return replace(plan, round=number, dimension=shared.layout.dimension(number), sharing=Sharing())


def _untaught(plan: Plan) -> Plan:
    """Nobody's answers but the labels: a member alone would only repeat itself."""
    if not isinstance(plan.learning.loss, PseudoLabels):
        return plan
    return replace(plan, learning=replace(plan.learning, loss=CrossEntropy()))


def train_openly(
    shared: SharedModel, start: bytes, records: Mapping[str, Records], plan: Plan, rates: Sequence[Fraction],
    strategy: Strategy, seed: int = 0,
) -> bytes:  # fmt: skip
    """The federation's adapter without clipping, noise or protection: the same rounds, rates and server optimizer.

    Members count alike here, and each starts from the broadcast.
    """
    import numpy as np  # noqa: PLC0415

    names = tuple(MemberId(name) for name in records)
    encoding = FixedPoint(64, 40, 64)  # nothing is clipped, so nothing is known of its size: 2**23 at most
    sharing, state, memory = plan.sharing, start, strategy.begin(start)
    half, rooms = MemberStrategy(shared.layout, shared.initial()), {name: shared.room() for name in records}
    for number, rate in enumerate(rates, start=1):
        asked = _of_round(replace(plan, learning=replace(plan.learning, learning_rate=rate)), shared, number)
        before = np.frombuffer(state, "<f4").astype(np.float64)
        total, attended = np.zeros(len(before)), np.zeros(())
        for name, part in records.items():
            label = int.from_bytes(hashlib.sha256(f"{seed} {number} {name}".encode()).digest()[:7])
            now = state[: 4 * shared.dimension]
            after = shared.train_without_privacy(asked, now, part.train, seed=label, room=rooms[name])
            if sharing.attention is not None:
                attended = attended + half.share(
                    replace(asked, sharing=sharing), state, state[: 4 * shared.dimension], after, ()
                )
                continue
            total += np.frombuffer(after, "<f4").astype(np.float64) - before
        if not np.abs(total).max() < 2**22:  # NaN is refused too
            what = f"training without privacy diverges in round {number}: nothing is clipped there"
            raise OperatorFault(what, "lower learning_rate")
        moved = np.concatenate([total[place] for place in shared.layout.sent(number, sharing)])
        moved = attended if sharing.attention is not None else moved
        moved = np.tile(np.append(moved, len(names)), len(sharing.weightings)) if sharing.weightings else moved
        grid = np.rint(moved * 2.0**encoding.fraction_bits).astype(np.int64)
        summed = Aggregate(grid, names, encoding)
        state, memory = strategy.advance(number, state, memory, summed)
    return state


def scored(shared: SharedModel, state: bytes, records: Mapping[str, Records], plan: Plan) -> dict[str, Any]:
    """Accuracy of a state on all members' held-out rows together."""
    parts = {name: shared.evaluate(state, part.heldout, plan.learning.max_tokens) for name, part in records.items()}
    total = _pooled(parts)
    told = {"n": total.n, "majority": total.majority, "after": total.accuracy, "macro_f1": total.macro_f1}
    return {"accuracy": {"measure": measure_of(plan), **told, "note": NOTE}}


def measure_of(plan: Plan) -> str:
    """Return what is measured on held-out rows."""
    return "nats per token" if plan.task.kind == "language" else "accuracy"


def _pooled(scores: Mapping[str, Scores | Surprise]) -> Scores | Surprise:
    """All members' held-out rows together."""
    from securefl.training.evaluate import Scores, pooled  # noqa: PLC0415
    from securefl.training.language import Surprise, together  # noqa: PLC0415

    costs = [each for each in scores.values() if isinstance(each, Surprise)]
    return together(costs) if costs else pooled(each for each in scores.values() if isinstance(each, Scores))


def compose(
    loaded: Loaded, plan: Plan, measured: Measured, out: Path, watch: Stopwatch, adapter: Path | None,
    engine: str, who: str,
) -> dict[str, Any]:  # fmt: skip
    """The report: all but accuracy, seconds, versions and the engine is read from the ledgers in ``out``.

    Args:
        who: who can open an update, as this machine knows it.
    """
    found = figures.figures(read_all(out), plan.run, plan)
    shown = measured.after or measured.before
    total, before = _pooled(shown), _pooled(measured.before)
    seconds = {link: round(value, 3) for link, value in sorted(watch.seconds.items())}
    inner = sum(seconds.get(link, 0.0) for link in ("training", "protection", "pricing"))
    if "rounds" in seconds:
        seconds["protocol"] = round(max(0.0, seconds.pop("rounds") - inner), 3)
    seconds["total"] = round(sum(seconds.values()), 3)
    return found | {
        "members": [
            {
                "name": each.name,
                "region": found["members"][each.name],
                "heldout": {
                    "n": shown[each.name].n,
                    "majority": shown[each.name].majority,
                    "before": measured.before[each.name].accuracy,
                    "after": shown[each.name].accuracy,
                    "macro_f1": shown[each.name].macro_f1,
                    "broadcast": measured.broadcast[each.name].accuracy if measured.broadcast else None,
                    "local_only": measured.local[each.name].accuracy if measured.local else None,
                    "without_privacy": measured.open_[each.name].accuracy if measured.open_ else None,
                },
                "note": NOTE,
            }
            for each in loaded.file.members
        ],
        "accuracy": {
            "measure": measure_of(plan),
            "majority": total.majority,
            "before": before.accuracy,
            "after": total.accuracy,
            "macro_f1": total.macro_f1,
            "broadcast": _pooled(measured.broadcast).accuracy if measured.broadcast else None,
            "local_only": _pooled(measured.local).accuracy if measured.local else None,
            "without_privacy": _pooled(measured.open_).accuracy if measured.open_ else None,
            "note": NOTE,
        },
        "epsilon": found["epsilon"] | {"accountant_version": version("dp-accounting")},
        "seconds": seconds,
        "protections": found["protections"] | {"engine": engine, "who_can_open": who},
        "adapter": adapter.name if adapter else None,
        "versions": {
            "securefl": __version__,
            **{name: version(name) for name in ("torch", "transformers", "peft", "opacus", "dp-accounting")},
        },
    }


def _told(value: str | float | None) -> str:
    """A column's title or number; a dash where a language model has none."""
    shown = "-" if value is None else f"{value:.3f}" if isinstance(value, float) else value
    return f"{shown:>10}"


def table(report: dict[str, Any], out: Path) -> str:
    """Return what a person reads at the end of a run."""
    told, cost = report["accuracy"], report["epsilon"]
    extra = [name for name in ("broadcast", "local_only", "without_privacy") if told[name] is not None]
    head = f"{'member':<14}{'rows':>6}{_told('majority')}{'before':>9}{'after':>9}{_told('macro-F1')}" + "".join(
        f"{e:>17}" for e in extra
    )
    lines = [f"{told['measure']} on held-out rows ({NOTE})", head]
    for member in report["members"]:
        h = member["heldout"]
        lines.append(
            f"{member['name']:<14}{h['n']:>6}{_told(h['majority'])}{h['before']:>9.3f}{h['after']:>9.3f}{_told(h['macro_f1'])}"
            + "".join(f"{h[e]:>17.3f}" for e in extra)
        )
    lines.append(
        f"{'all':<14}{sum(m['heldout']['n'] for m in report['members']):>6}{_told(told['majority'])}"
        f"{told['before']:>9.3f}{told['after']:>9.3f}{_told(told['macro_f1'])}"
        + "".join(f"{told[e]:>17.3f}" for e in extra)
    )
    outcome = report["outcome"]
    if not report["adapter"]:  # nothing was trained: figures of the first state would look like results
        lines = [f"outcome  {outcome['status']}: {outcome['why']}"]
    links = ", ".join(f"{link} {value:.1f}" for link, value in report["seconds"].items())
    lines += [
        "",
        *(f"WARNING  {warning}" for warning in report["warnings"]),
        f"epsilon  {cost['spent']:.4f} spent, {cost['left']:.4f} left of {cost['limit']:g} at delta {cost['delta']:g}",
        f"         {cost['unit']} level, {cost['neighbours']}, {cost['mechanism']}, {cost['sampler']} sampling",
        f"         {cost['accountant']}",
        f"hidden   {report['protections']['scheme']}: {report['protections']['who_can_open']}",
        f"silence  {report['protections']['silence']}",
        f"bytes    {report['bytes']['up']:,} up, {report['bytes']['down']:,} down",
        f"seconds  {links}",
        *((f"outcome  {outcome['status']}: {outcome['why']}",) if report["adapter"] else ()),
        f"report   {out / 'report.html'}",
        f"adapter  {out / 'adapter' if report['adapter'] else 'none: no round finished'}",
        f"check it: securefl audit verify {out}",
    ]
    return "\n".join(lines)
