"""Rules about when, for whom, for what and where a plan is, and about what it releases."""

from __future__ import annotations

from datetime import UTC, datetime

from securefl.policy.checks import Check, all_of, listed, one_of
from securefl.policy.rule import Question, Rule


def _valid(rule: str, asked: Question) -> Check:
    day, valid = datetime.fromtimestamp(asked.now, UTC).date(), asked.policy.valid
    limit = f"{valid.from_} to {valid.until}"
    return Check(rule, valid.from_ <= day <= valid.until, str(day), limit, "use a policy that is valid today")


def _policy(rule: str, asked: Question) -> Check:
    named, policy = asked.plan.policy, asked.policy
    return Check(
        rule, named == policy.hash, named.hex()[:16], policy.hash.hex()[:16],
        f"plan under policy {policy.hash.hex()[:16]}, version {policy.version}",
    )  # fmt: skip


def _federation(rule: str, asked: Question) -> Check:
    named, its = asked.plan.federation, asked.policy.federation
    return Check(rule, named == its, named, its, f"set the federation's name to {its}")


def _purposes(rule: str, asked: Question) -> Check:
    return one_of(rule, "purpose", asked.plan.purpose, asked.policy.context.purposes)


def _regions(rule: str, asked: Question) -> Check:
    return all_of(rule, "region", [seat.region for seat in asked.plan.cohort], asked.policy.context.regions)


def _release(rule: str, asked: Question) -> Check:
    released, allowed = asked.plan.release, asked.policy.release.fields
    outside = sorted(set(released) - set(allowed))
    fix = f"do not release {listed(outside)}"
    return Check(rule, not outside, listed(outside or released), listed(allowed), fix)


CONTEXT = (
    Rule("valid", ("the day",), ("valid.from", "valid.until"), _valid),
    Rule("policy", ("plan.policy",), ("version",), _policy),
    Rule("federation", ("plan.federation",), ("federation",), _federation),
    Rule("context.purposes", ("plan.purpose",), ("context.purposes",), _purposes),
    Rule("context.regions", ("plan.cohort",), ("context.regions",), _regions),
)
RELEASE = (Rule("release.fields", ("plan.release",), ("release.fields",), _release),)
