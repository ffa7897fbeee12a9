"""A coordinator's sum of inputs that are all here: added one by one, as they come, and opened."""

from __future__ import annotations

from collections.abc import Mapping

from securefl.seams import CoordinatorProtection
from securefl.terms import Aggregate, MemberId, Plan


def added(coordinator: CoordinatorProtection, plan: Plan, sealed: Mapping[MemberId, bytes]) -> bytes:
    total = b""
    for member, payload in sorted(sealed.items()):
        total = coordinator.add(plan, total, member, payload) or b""
    return total


def sum_of(
    coordinator: CoordinatorProtection, plan: Plan, enrolled: Mapping[MemberId, bytes],
    sealed: Mapping[MemberId, bytes], answers: Mapping[MemberId, bytes],
) -> Aggregate:  # fmt: skip
    return coordinator.open(plan, enrolled, tuple(sorted(sealed)), added(coordinator, plan, sealed), answers)
