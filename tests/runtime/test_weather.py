"""A network that loses, delays, doubles and reorders, is cut in two for a while, and whose ends are restarted."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from securefl.terms import Reserved, Scheme, Settled
from tests.runtime.test_sockets import houses, paid
from tests.support.parties import Federation, on_sockets
from tests.support.weather import Killed, Sky, Striking, Weather, calm, driven, kinds, ways

ROUNDS = 2


def killed() -> None:
    raise Killed


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("scheme", [Scheme.MASKING, Scheme.MASKED_CKKS])
def test_connections_that_are_cut_doubled_and_reordered_change_nothing(
    scheme: Scheme, seed: int, tmp_path: Path
) -> None:
    expected = calm(Federation(tmp_path / "calm", scheme), ROUNDS)
    federation, sky = Federation(tmp_path / "rough", scheme), Sky(Weather(0.3, 0.2, 0.2, 0.005), seed)
    with on_sockets(federation), ways(tmp_path / "ways", federation, sky) as runtime:
        end = driven(federation, runtime, ROUNDS)
    assert (end.outcome, end.course.state, kinds(federation)) == ("finished", *expected)
    for fate in ("before", "request", "answer", "twice", "late"):
        assert sky.met[fate], sky.met


def test_a_tenth_lost_delays_a_partition_and_two_restarts_and_the_run_finishes_as_if_nothing_had_been(
    tmp_path: Path,
) -> None:
    """The partition is one second here, and each frame takes 20 ms; `audits.engines.network` has 30 s and 500 ms."""
    state, ledgers = calm(Federation(tmp_path / "calm"), ROUNDS)
    federation, sky = Federation(tmp_path / "rough"), Sky(Weather(delay_s=0.02), 4)
    with houses(federation) as parties, ways(tmp_path / "ways", federation, sky) as runtime:

        def restarted() -> None:
            assert parties.end("b", signal.SIGKILL) == -signal.SIGKILL
            parties.start("b")

        strikes = {("Propose", 1): restarted, ("Ask", 1): killed, ("Propose", 2): lambda: sky.part(1.0)}
        end = driven(federation, Striking(runtime, strikes), ROUNDS)
    assert not strikes, "each struck"
    assert (end.outcome, end.course.state) == ("finished", state)
    assert sky.met["parted"] and sum(sky.met[each] for each in ("before", "request", "answer")), sky.met
    for name in federation.names:
        assert paid(federation, name) == [Reserved, Settled] * ROUNDS
        assert kinds(federation)[name] == ledgers[name]
