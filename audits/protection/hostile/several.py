"""A site of several federations: what the coordinator of one can have done, written or heard of another one's run."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

from audits.protection.attempt import Attempt, Outcome
from securefl import wire
from securefl.errors import PeerFault
from securefl.protocol import messages as m
from securefl.protocol.coordinator_state import Ended
from securefl.runtime.inprocess import InProcess
from securefl.site.dispatch import Dispatcher
from securefl.site.turns import Turns
from securefl.terms import MemberId, Receipt, RunId, Scheme
from tests.support.parties import COORDINATOR, CUSTODIAN, Federation


def _both(drawn: random.Random, folder: Path, scheme: Scheme) -> tuple[Federation, Federation]:
    """Two federations with the same sites, each with a coordinator of its own."""
    first = Federation(folder, scheme, name="f", run=RunId(drawn.randbytes(16)))
    return first, replace(first, name="g", centre="office", run=RunId(drawn.randbytes(16)))


def written_of_another(number: int, folder: Path, *, early: bool = False) -> Outcome:
    """One federation's coordinator has a refusal written down about the other's run, ended or under way."""
    drawn = random.Random(f"several {number}")  # noqa: S311 - trials that can be repeated
    first, second = _both(drawn, folder, Scheme.MASKED_CKKS if number % 2 else Scheme.MASKING)
    victim = CUSTODIAN if number % 4 == 1 else drawn.choice(first.names)
    sites = {
        MemberId(name): Dispatcher([each.agent(name) for each in (first, second)])
        for name in {*first.parties, *second.parties}
    }
    signer, stopped, grew = second.home(second.centre).identity, set[str](), list[bool]()
    message = drawn.choice((
        m.Invite(replace(second.session(), run=first.run)), m.Invite(first.session()), m.Ask(1, b""),
        m.Close("aborted", "", 0, b"", ()), m.Close("finished", "", 1, b"state", ()),
    ))  # fmt: skip
    made = m.enclose(signer, MemberId(COORDINATOR), MemberId(victim), first.run, drawn.randrange(3), message)

    def attempt() -> None:
        before = first.entries(victim)
        try:
            sites[MemberId(victim)].handle(wire.encode(m.Frame(made, None)))
        except PeerFault as fault:
            stopped.add(fault.rule)
        grew.append(first.entries(victim) != before)

    class Between(InProcess):
        def exchange(self, outbound, patience_s):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
            asked = list(outbound)
            kind = wire.decode(asked[0][1], m.Frame).envelope.receipt.kind
            if kind == "Propose" and not grew:
                attempt()
            yield from super().exchange(asked, patience_s)

    end: Ended = first.drive(Between(sites) if early else InProcess(sites))
    if not early:
        attempt()
    return Outcome(any(grew) or end.outcome != "finished", ", ".join(sorted(stopped)))


def turned_out(number: int, folder: Path) -> Outcome:
    """The coordinator of one federation names a training of the other one's run, to end it or to hear how far it is."""
    del folder
    drawn = random.Random(f"turned out {number}")  # noqa: S311 - as above
    turns, run = Turns(), RunId(drawn.randbytes(16))
    asked = Receipt(MemberId(COORDINATOR), MemberId("a"), run, 1, "Propose", None, None, wire.digest("x", b""), 1)
    kind = drawn.choice(("Close", "Propose", "Enrol"))
    later = replace(asked, round=drawn.randint(2, 9), kind=kind)
    with turns.taken("f", asked) as turn:
        assert not isinstance(turn, m.InProgress)
        with turns.training(turn, 40):
            turns.step(20, 40)
            heard = list[object]()

            def other() -> None:
                with turns.taken("g", later) as mine:
                    heard.append(mine)
                heard.append(turns.progress("g", run))

            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
    known = [each for each in heard if isinstance(each, m.InProgress) and each != m.InProgress(0, 0)]
    return Outcome(turn.over or bool(known), "a turn is of one federation's run")


ATTEMPTS = (
    Attempt("A coordinator has a refusal written about a run of another federation", written_of_another),
    Attempt("A coordinator has one written while that run is under way", partial(written_of_another, early=True)),
    Attempt("A coordinator ends a training of another federation's run", turned_out),
)
