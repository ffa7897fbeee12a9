"""Slices of the budget's audits: many writers on one account, and SIGKILL between any two steps."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from audits.budget import contention, crashes
from tests.support.stores import Stores


def new_homes(stores: Stores) -> Callable[[], Path]:
    """All in one database, one after the other: each is emptied by being another owner's schema or another file."""
    numbers = itertools.count()

    def new_home() -> Path:
        number = next(numbers)
        assert stores.url is None or number == 0, "one home for a database, as they have one owner"
        return stores.home(f"home{number}")

    return new_home


def test_processes_on_one_budget_reserve_exactly_what_it_allows(stores: Stores) -> None:
    figures = contention.contend(stores.home(), processes=6, seconds=2.0, limit=12)
    assert [each["name"] for each in figures if not each["holds"]] == []


def test_killed_between_any_two_steps_nothing_is_lost_and_nothing_spent_twice(stores: Stores) -> None:
    done, wrong = crashes.crash_anywhere(new_homes(stores), 20, seed=3)
    assert wrong == []
    assert done.total() >= 20


def test_killed_at_each_named_point_what_was_spent_stays_and_equals_the_replay(stores: Stores) -> None:
    done, wrong = crashes.crash_at_points(new_homes(stores), 1)
    assert wrong == []
    assert done == Counter(dict.fromkeys(crashes.POINTS, 1))
    assert len(crashes.POINTS) >= 12
