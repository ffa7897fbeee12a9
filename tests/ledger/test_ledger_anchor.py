"""One transaction of a home at a time, whoever asks; and the last of them remembered outside of the database."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from securefl.errors import OperatorFault
from securefl.ledger import anchor
from securefl.ledger import heads as signing
from securefl.terms import Hash, Head, MemberId
from tests.support.worlds import identity

LATE = """
import sys
from pathlib import Path
from securefl.errors import OperatorFault
from securefl.ledger import anchor
try:
    with anchor.alone(Path(sys.argv[1]), 0.1):
        print("had it")
except OperatorFault as fault:
    print(fault)
"""


def test_who_waits_too_long_for_its_turn_is_told_by_whom_and_the_turn_is_free_again_afterwards(tmp_path: Path) -> None:
    with anchor.alone(tmp_path), pytest.raises(OperatorFault, match=r"no turn in 0\.1 seconds.*wait for it") as fault:  # noqa: SIM117
        with anchor.alone(tmp_path, 0.1):
            raise AssertionError("two have the home")
    assert str(tmp_path / "ledger.head-turn") in str(fault.value)
    for _ in range(2):
        with anchor.alone(tmp_path, 5):
            pass


def test_who_waits_has_its_turn_once_the_other_is_done_and_not_before(tmp_path: Path) -> None:
    order: list[str] = []
    begun, had = threading.Event(), threading.Event()

    def second() -> None:
        begun.set()
        with anchor.alone(tmp_path, 30):
            order.append("second")
        had.set()

    waiting = threading.Thread(target=second)
    with anchor.alone(tmp_path):
        waiting.start()
        assert begun.wait(10)
        assert not had.wait(0.3), "the first still has it"
        order.append("first")
    assert had.wait(10)
    waiting.join()
    assert order == ["first", "second"]


def test_whoever_still_waits_as_its_program_ends_does_not_keep_it(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with anchor.alone(tmp_path):
        with pytest.raises(OperatorFault, match="no turn"), anchor.alone(tmp_path, 0.1):
            raise AssertionError("two have the home")
        waiting = set(threading.enumerate()) - before
        assert waiting and all(each.daemon for each in waiting)
    for each in waiting:
        each.join(10)


def test_an_error_in_a_turn_ends_it(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), anchor.alone(tmp_path):
        1 / 0  # noqa: B018
    with anchor.alone(tmp_path, 5):
        pass


def test_a_process_that_gave_up_waiting_ends_while_the_other_still_has_its_turn(tmp_path: Path) -> None:
    with anchor.alone(tmp_path):
        done = subprocess.run(
            [sys.executable, "-c", LATE, tmp_path], capture_output=True, text=True, timeout=60, check=True
        )
    assert "no turn in 0.1 seconds" in done.stdout
    again = subprocess.run(
        [sys.executable, "-c", LATE, tmp_path], capture_output=True, text=True, timeout=60, check=True
    )
    assert again.stdout == "had it\n"


def test_a_turn_that_others_may_take_is_no_turn(tmp_path: Path) -> None:
    """Whoever may open the file could hold its lock for ever."""
    (tmp_path / "ledger.head-turn").touch(mode=0o666)
    (tmp_path / "ledger.head-turn").chmod(0o666)
    with pytest.raises(OperatorFault, match="chmod 600"), anchor.alone(tmp_path):
        raise AssertionError("it had its turn")


def test_a_head_that_is_kept_already_may_be_kept_again(tmp_path: Path) -> None:
    """As by a process that ended after its transaction, and before it knew that its head was kept."""
    five = signing.sign(identity("north"), Head(MemberId("north"), 5, Hash(bytes(32))))
    for _ in range(2):
        anchor.write(tmp_path, five, lambda head: head == five.head)
    assert anchor.read(tmp_path) == five.head
