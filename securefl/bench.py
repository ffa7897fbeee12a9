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

from securefl.audit import replay
from securefl.errors import OperatorFault
from securefl.policy.training_rules import MECHANISMS
from securefl.progress import Progress
from securefl.protection.fixed_point import SATURATION_LIMIT
from securefl.protection.who import what_silence_does, who_can_open
from securefl.strategy.member import Half
from securefl.terms import (
    AdapterRule,
    Aggregate,
    Bound,
    DistributedDiscreteGaussian,
    FixedPoint,
    Got,
    Level,
    MemberId,
    Opening,
    OwnLabel,
    Plan,
    PseudoLabels,
    Reserved,
    Sent,
    Sharing,
    Unit,
    Update,
)  # fmt: skip

if TYPE_CHECKING:
    from securefl.federation_file import Loaded
    from securefl.policy.load import Policy
    from securefl.protocol import coordinator as c
    from securefl.seams import Strategy
    from securefl.training.data import Records
    from securefl.training.evaluate import Scores
    from securefl.training.language import Surprise
    from securefl.training.trainer import SharedModel

_FILTERED = {"accountant": "dp-accounting RDP, as a filter over fixed orders"}
NOTE = "bench only, not released"
_ACCOUNTANTS = {
    Unit.RECORD: {"sampler": "poisson", "accountant": "dp-accounting PLD, interval 1e-3, finer below epsilon 2"},
    Unit.CLIENT: {
        "sampler": "no",
        "accountant": "dp-accounting RDP, with the bound of Kairouz, Liu and Steinke (2021) for sums of shares",
    },
}


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
            beside = self._path.with_name(self._path.name + ".new")
            beside.write_text(json.dumps(self.seconds))
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
class Arms:
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
    arms: Arms, shown: Progress, own: Callable[[str], bytes],
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
    state = start[: 4 * shared.dimension]
    for number in range(1, rounds + 1):
        update: Update = shared.train(_untaught(_of_round(plan, shared, number)), state, part.train, os.urandom)
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
    return replace(plan, learning=replace(plan.learning, loss=OwnLabel()))


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
    half = Half(shared.layout, shared.initial())
    for number, rate in enumerate(rates, start=1):
        asked = _of_round(replace(plan, learning=replace(plan.learning, learning_rate=rate)), shared, number)
        before = np.frombuffer(state, "<f4").astype(np.float64)
        total, attended = np.zeros(len(before)), np.zeros(())
        for name, part in records.items():
            label = int.from_bytes(hashlib.sha256(f"{seed} {number} {name}".encode()).digest()[:7])
            after = shared.train_without_privacy(asked, state[: 4 * shared.dimension], part.train, seed=label)
            if sharing.attention is not None:
                attended = attended + half.share(replace(asked, sharing=sharing), state, after, ())
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
        memory, state = (
            strategy.remember(number, state, memory, summed),
            strategy.next(number, state, memory, summed),
        )
    return state


def scored(shared: SharedModel, state: bytes, records: Mapping[str, Records], plan: Plan) -> dict[str, Any]:
    """Accuracy of a state on all members' held-out rows together."""
    parts = {name: shared.evaluate(state, part.heldout, plan.learning.max_tokens) for name, part in records.items()}
    total = _pooled(parts)
    told = {"n": total.n, "majority": total.majority, "after": total.accuracy, "macro_f1": total.macro_f1}
    return {"accuracy": {"measure": measure_of(plan), **told, "note": NOTE}}


def measure_of(plan: Plan) -> str:
    """What is measured on held-out rows."""
    return "nats per token" if plan.task.kind == "language" else "accuracy"


def _pooled(scores: Mapping[str, Scores | Surprise]) -> Scores | Surprise:
    """All members' held-out rows together."""
    from securefl.training.evaluate import Scores, pooled  # noqa: PLC0415
    from securefl.training.language import Surprise, together  # noqa: PLC0415

    costs = [each for each in scores.values() if isinstance(each, Surprise)]
    return together(costs) if costs else pooled(each for each in scores.values() if isinstance(each, Scores))


def compose(
    loaded: Loaded, policy: Policy, plan: Plan, ended: c.Ended, measured: Measured, out: Path, watch: Stopwatch,
    adapter: Path | None, engine: str,
) -> dict[str, Any]:  # fmt: skip
    """The report: all but accuracy, seconds and the engine is read from the ledgers in ``out``, not from the file."""
    from securefl.audit.verify import Ledger, read_all  # noqa: PLC0415

    ledgers = read_all(out)
    run = plan.run
    coordinator = ledgers[MemberId("coordinator")]
    rows = replay.accounts(out)
    worst = max((row for row in rows if row["level"] == Level.DATASET), key=lambda row: row["spent"] + row["reserved"])
    spent_at: dict[int, float] = {}
    for ledger in ledgers.values():
        for _, entry in ledger.each(Reserved):
            if entry.plan.run == run:
                after = entry.price.after[Level.DATASET] / 1e6
                spent_at[entry.plan.round] = max(spent_at.get(entry.plan.round, 0.0), after)

    def size(kind: type[Got | Sent], ledger: Ledger, number: int | None = None) -> int:
        return sum(
            entry.receipt.size
            for _, entry in ledger.each(kind)
            if entry.receipt.run == run and number in (None, entry.receipt.round)
        )

    openings = {e.round: e.survivors for _, e in coordinator.each(Opening) if e.run == run}
    rounds = [
        {
            "round": number,
            "survivors": [str(member) for member in openings.get(number, ())],
            "epsilon_after": spent_at.get(number),
            "bytes_up": size(Got, coordinator, number),
            "bytes_down": size(Sent, coordinator, number),
        }
        for number in sorted({*openings, *spent_at})
    ]
    shown = measured.after or measured.before
    total, before = _pooled(shown), _pooled(measured.before)
    seconds = {link: round(value, 3) for link, value in sorted(watch.seconds.items())}
    inner = sum(seconds.get(link, 0.0) for link in ("training", "protection", "pricing"))
    if "rounds" in seconds:
        seconds["protocol"] = round(max(0.0, seconds.pop("rounds") - inner), 3)
    seconds["total"] = round(sum(seconds.values()), 3)
    regions = {member.name: member.region for member in loaded.file.members}
    budget = policy.budget
    by_filter = worst["bound"] == Bound.FILTER and plan.learning.event.unit is Unit.RECORD
    return {
        "federation": loaded.file.name,
        "run": run.hex(),
        "outcome": {"status": ended.outcome, "why": ended.why},
        "policy_hash": policy.hash.hex(),
        "model": {"name": plan.model.name, "digest": plan.model.digest.hex(), "trained_parameters": plan.dimension},
        "members": [
            {
                "name": name,
                "region": regions[name],
                "heldout": {
                    "n": shown[name].n,
                    "majority": shown[name].majority,
                    "before": measured.before[name].accuracy,
                    "after": shown[name].accuracy,
                    "macro_f1": shown[name].macro_f1,
                    "broadcast": measured.broadcast[name].accuracy if measured.broadcast else None,
                    "local_only": measured.local[name].accuracy if measured.local else None,
                    "without_privacy": measured.open_[name].accuracy if measured.open_ else None,
                },
                "note": NOTE,
            }
            for name in regions
        ],
        "rounds": rounds,
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
        "epsilon": {
            "limit": worst["limit"],
            "spent": worst["spent"],
            "reserved": worst["reserved"],
            "left": worst["left"],
            "delta": float(budget.delta),
            "unit": plan.learning.event.unit.value,
            "neighbours": budget.neighbours.value,
            "mechanism": MECHANISMS[type(plan.learning.event)],
            **_ACCOUNTANTS[plan.learning.event.unit],
            **(_FILTERED if by_filter else {}),
            "accountant_version": version("dp-accounting"),
            "rdp": _rdp(out, plan.learning.event.unit),
            "bound": worst["bound"],
            "member": worst["member"],
        },
        "accounts": rows,
        "bytes": {"up": size(Got, coordinator), "down": size(Sent, coordinator)},
        "seconds": seconds,
        "protections": protections(plan, openings, engine, len(loaded.file.members)),
        "warnings": list(warnings(plan)),
        "adapter": adapter.name if adapter else None,
        "versions": {
            name: version(name) for name in ("securefl", "torch", "transformers", "peft", "opacus", "dp-accounting")
        },
    }


def _rdp(out: Path, unit: Unit) -> float:
    told = replay.replay(out)["epsilon"]
    found: float = told.get("client", {"rdp": 0.0})["rdp"] if unit is Unit.CLIENT else told["rdp"]
    return found


def protections(
    plan: Plan, openings: Mapping[int, tuple[MemberId, ...]], engine: str, members: int
) -> dict[str, Any]:  # fmt: skip
    """What was on, and who can open what."""
    cover = plan.cover
    return {
        "scheme": cover.scheme.value,
        "min_cohort": cover.min_cohort,
        "threshold": cover.threshold if cover.scheme.has_masks else None,
        "colluding": cover.colluding,
        "cohort_sizes": [len(survivors) for _, survivors in sorted(openings.items())],
        "who_can_open": who_can_open(cover),
        "silence": what_silence_does(cover, members),
        "encoding": {
            "value_bits": cover.encoding.value_bits,
            "fraction_bits": cover.encoding.fraction_bits,
            "ring_bits": cover.encoding.ring_bits,
            "capacity": cover.encoding.capacity(),
            "saturation_limit": SATURATION_LIMIT,
        },
        "engine": engine,
        "noise_generator": f"AES-256-CTR, a 256-bit key for each draw, kept nowhere{_shares(plan)}",
        "noise_multiplier": float(plan.learning.event.noise_multiplier),
        "clip_l2": float(plan.learning.clip_l2),
        "sampling_rate": [plan.learning.event.sampling_rate.numerator, plan.learning.event.sampling_rate.denominator],
    }


def warnings(plan: Plan) -> tuple[str, ...]:
    """What a person should know before the run begins."""
    if plan.adapter.rule is not AdapterRule.BOTH:
        return ()
    bias = "rule `both` averages A and B apart: mean(B) mean(A) is not mean(BA), but off by the members' covariance"
    return (f"{bias} of B and A; and noise on one factor is multiplied by the other. Use b-only, alternating or svd.",)


def _shares(plan: Plan) -> str:
    event = plan.learning.event
    if not isinstance(event, DistributedDiscreteGaussian):
        return ""
    return f"; a discrete Gaussian share from each member, priced for {event.honest} honest ones"


def _told(value: str | float | None) -> str:
    """A column's title or number; a dash where a language model has none."""
    shown = "-" if value is None else f"{value:.3f}" if isinstance(value, float) else value
    return f"{shown:>10}"


def table(report: dict[str, Any], out: Path) -> str:
    """What a person reads at the end of a run."""
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
    links = ", ".join(f"{link} {value:.1f}" for link, value in report["seconds"].items())
    outcome = report["outcome"]
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
        f"outcome  {outcome['status']}: {outcome['why']}",
        f"report   {out / 'report.html'}",
        f"adapter  {out / 'adapter' if report['adapter'] else 'none: no round finished'}",
        f"check it: securefl audit verify {out}",
    ]
    return "\n".join(lines)
