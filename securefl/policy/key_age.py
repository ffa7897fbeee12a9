"""How long a policy lets a key be used, read from the text that a run is under."""

from __future__ import annotations

from functools import lru_cache

from securefl.policy.load import Policy, parse

DAY_S = 24 * 3600


def most_age_s(policy: Policy) -> int | None:
    """Seconds; None of a policy that says nothing of keys."""
    days = policy.document.keys.max_age_days
    return None if days is None else days * DAY_S


@lru_cache(maxsize=64)
def most_age_in(text: bytes) -> int | None:
    """The same of a policy's text, as a run keeps it."""
    return most_age_s(parse(text, "the policy of a run"))
