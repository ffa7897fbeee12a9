"""Every rule that can say no, by name. A name stands in ledgers and in messages, and never changes its meaning.

A `Reason` of another name cannot be made, and none is decoded: so whoever passes names on passes nothing else on.
"""

from __future__ import annotations

from typing import Final

PEER: Final = "protocol.peer"  # what a fault of a peer is called where nothing closer fits
SITE: Final = "site.fault"  # something is wrong at the site itself, and what it is stays there
FULL: Final = "site.full"  # the site holds as many requests as it takes: the same request may be sent again

# 1. What a site says of a message that it does not answer: the name, and this sentence; nothing of the message or site.

FAULTS: Final = {
    PEER: "the message is not what the protocol allows",
    SITE: "something is wrong at the site; its operator is told there",
    FULL: "the site holds as many requests as it takes; ask again",
    "policy.authority": "the site has not adopted that policy",
    "protocol.altered": "the body is not the one that its receipt names",
    "protocol.another-cohort": "the keys or shares are for another cohort",
    "protocol.another-cover": "the plan is covered otherwise than the session",
    "protocol.another-federation": "the federation is not the one agreed to",
    "protocol.another-input": "the encrypted input is not what the plan asks for",
    "protocol.another-model": "the model is not the one agreed to",
    "protocol.another-party": "the coordinator or custodian is not the one agreed to",
    "protocol.another-plan": "the plan is not the one that the receipt names",
    "protocol.another-roster": "the keys or shares are for another roster",
    "protocol.another-round": "the question is about another round",
    "protocol.another-run": "the message is of another run",
    "protocol.another-set": "the shares are for other survivors",
    "protocol.another-state": "the adapter state is not the one that the plan names",
    "protocol.another-task": "the task is not the one that the site takes part in",
    "protocol.another-threshold": "the shares are for another threshold",
    "protocol.box": "a sealed part does not open",
    "protocol.called-dropped": "a member that sent its result is called dropped",
    "protocol.few-honest": "too few inputs would be unknown to those who may pool what they know",
    "protocol.faint-noise": "the noise may be below the grid",
    "protocol.few-survivors": "the sum would be over too few members",
    "protocol.forged": "a signature, key or digest does not match",
    "protocol.key-handed-over": "a key was handed over, and the time in which both count is over",
    "protocol.key-revoked": "a key was revoked by its owner",
    "protocol.key-too-old": "a key is older than the policy lets one be, or its age cannot be told",
    "protocol.ledger-set-back": "a ledger is older than what was seen of it",
    "protocol.late": "the round has taken longer than this site lets one take",
    "protocol.malformed": "the bytes are not the encoding of what is expected",
    "protocol.misdirected": "the message is from or for another party",
    "protocol.no-ledger": "a message shows no ledger",
    "protocol.no-sum": "what was opened is no sum of honest inputs",
    "protocol.out-of-turn": "it is not this message's turn",
    "protocol.overflow": "a sum could wrap around",
    "protocol.own-ledger-set-back": "this party's own ledger is not the one it has signed",
    "protocol.party-left": "a party has left the federation",
    "protocol.poisoned-sum": "the sum is beyond what honest updates add up to",
    "protocol.replayed-key": "a key was used before",
    "protocol.replayed-round": "the round is over",
    "protocol.second-question": "the round's one question was answered",
    "protocol.signature": "the signature does not hold",
    "protocol.small-cohort": "the cohort is too small",
    "protocol.stale-input": "weights that are kept would be added over more than one cohort",
    "protocol.stale-policy": "the policy is not the one agreed to",
    "protocol.stranger": "a party is not on the roster, or stands there twice",
    "protocol.swapped-key": "a member's own key is missing or altered",
    "protocol.too-few": "too few answers came to open the sum",
    "protocol.unlisted-release": "what would leave is not on the plan's list",
    "protocol.unsafe": "the request would show more than a sum over enough members",
    "protocol.unsafe-threshold": "the threshold does not bear a safe sum",
    "protocol.weak-key": "a key is not a safe one",
    "protocol.without-me": "the roster or cohort is without this member",
    "protocol.wrong-share": "a share does not fit",
}

# 2. What a plan, a policy's signature or an answer is declined by. Values and limits stand beside it.

DECISIONS: Final = frozenset({
    "approvals.duplicate", "approvals.early", "approvals.expired", "approvals.forged", "approvals.replayed",
    "approvals.revoked", "approvals.self", "approvals.stranger",
    "budget.above.epsilon", "budget.epsilon", "budget.neighbours", "budget.once", "budget.others.epsilon",
    "budget.per_dataset.epsilon", "budget.per_round.epsilon", "budget.per_run.epsilon", "budget.price", "budget.unit",
    "context.purposes", "context.regions", "federation", "plan.dimension", "policy",
    "policy.error", "policy.version",
    "protection.capacity", "protection.cohort", "protection.colluding", "protection.custodian",
    "protection.fresh", "protection.grid",
    "protection.honest", "protection.honest_shares", "protection.min_cohort", "protection.schemes", "protection.seats",
    "protection.shared_whole", "protection.threshold", "protection.threshold.reachable", "protection.trust",
    "protection.whole_cohort",
    "protocol.no-answer", "release.fields",
    "sharing.attention", "sharing.home", "sharing.probes", "sharing.pull", "sharing.weight_ratio", "sharing.weightings",
    "site.labels", "site.learning_rate", "site.losses", "site.memory", "site.micro_batch", "site.patience",
    "site.sharing", "site.tokens",
    "training", "training.adapters", "training.base", "training.base_models", "training.clip", "training.clipping",
    "training.divisor", "training.event", "training.learning_rate", "training.losses", "training.mechanisms",
    "training.micro_batch", "training.modules", "training.noise_multiplier", "training.optimizers", "training.rank",
    "training.rules", "training.tokens", "training.unfinished", "valid",
})  # fmt: skip

KNOWN: Final = frozenset(FAULTS) | DECISIONS


def of_fault(fault: BaseException) -> str:
    """The name by which a fault may be spoken of outside its site: its own, if it has one that is known."""
    rule = getattr(fault, "rule", None)
    if rule is None:
        return SITE
    return rule if rule in FAULTS else PEER
