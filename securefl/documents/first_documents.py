"""The texts of a first federation: its file, its policy with cases, and a SITE document for each party, with comments.

Numbers in them are public. Those that would follow from how many records somebody has are rounded to 1, 2 or 5 times a
power of ten, or to a power of two, and the comments say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from securefl.documents import emit

ROUNDS: Final = 10
STEPS: Final = 8
IN_A_STEP: Final = 32  # records that a step should have at least: fewer teach little through the noise
CLOSEST: Final = 64  # the smallest sampling rate is 1 / CLOSEST
COMMENTS: Final = 46  # the column that comments behind values begin in
OVER: Final = ("budget.epsilon", "budget.per_dataset.epsilon")
FEWEST: Final = 3  # members: of a sum over two, each knows the other's


@dataclass(frozen=True, slots=True)
class First:
    """What is known of a federation before it has a file."""

    name: str
    purpose: str
    region: str
    model: str  # as the federation's file has it
    adapter: Mapping[str, Any]  # kind, targets
    labels: tuple[str, ...]
    shared: Mapping[str, Any]  # of all members' data
    members: Mapping[str, Mapping[str, Any]]  # each one's own data
    typical: int  # records to train on, of a typical member
    largest: int
    max_tokens: int
    epsilon: Fraction
    year: int  # the policy holds from its first day on

    @property
    def sampling_rate(self) -> Fraction:
        """The smallest power of two with which a step of a typical member has enough records; at most 1/2."""
        rate = Fraction(1, CLOSEST)
        while rate < Fraction(1, 2) and rate * self.typical < IN_A_STEP:
            rate *= 2
        return rate

    @property
    def divisor(self) -> int:
        """About as many records as a step has, as 1, 2 or 5 times a power of ten."""
        wanted, power = max(1, int(self.sampling_rate * self.typical)), 1
        while power * 10 <= wanted:
            power *= 10
        return max(each * power for each in (1, 2, 5) if each * power <= wanted)

    @property
    def delta(self) -> str:
        """Below one in the largest data set, with room."""
        power = 5
        while 10**power < 2 * self.largest:
            power += 1
        return f"1e-{power}"

    @property
    def threshold(self) -> int:
        """The least number of shares that no two groups of members have at once, one of them colluding."""
        return (len(self.members) + 1) // 2 + 1


def line(kind: str) -> str:
    """What an editor reads to know a document's fields."""
    return f"# yaml-language-server: $schema={{to}}schemas/{kind}.schema.json\n"


def federation(first: First) -> str:
    """The federation's file."""
    members = "".join(
        f"  - {_flow({'name': name, 'region': first.region} | ({'data': data} if data else {}))}\n"
        for name, data in first.members.items()
    )
    return _aligned(f"""{line("federation").format(to="")}\
# One training, by all members together. The line above lets an editor explain and complete every field.
# Try it: securefl check federation.yaml     Run it: securefl run federation.yaml --out RUN
securefl_federation: 1
name: {emit.scalar(first.name)}
policy: policy.yaml
purpose: {emit.scalar(first.purpose)} ## one that the policy allows
model: {emit.scalar(first.model)} ## a folder, or a Hugging Face name in this machine's cache

task: {_flow({"kind": "classification", "labels": list(first.labels)})}
adapter: {_flow(first.adapter)}

data: ## what all members' data have in common
{_block(first.shared)}
training:
  rounds: {ROUNDS}
  steps: {STEPS} ## in a round; each draws its records anew
  sampling_rate: {first.sampling_rate} ## each record's chance to be in a step: small is cheap and slow
  epsilon: {_number(first.epsilon)} ## all rounds together; noise follows from it
  clip: 1.0 ## how far one record may move a step; noise is in proportion
  divisor: {first.divisor} ## in the place of the sample's size, which is private
  learning_rate: 1
  learning_rate_end: 0.2 ## of the last round
  optimizer: sgd
  max_tokens: {first.max_tokens} ## the rest of a longer text is not read
  micro_batch: 32 ## records in memory at once; no result depends on it

protection: masking ## or ckks, bfv: see the README
sites: sites ## where the members' homes are made: keys, ledger and account. Keep them

members:
{members}""")


def policy(first: First) -> str:
    """The policy that all members agree to."""
    epsilon = _number(first.epsilon)
    kind = first.adapter.get("kind", "lora")
    return _aligned(f"""{line("policy").format(to="")}\
# What the members agree to. It is UNSIGNED until it names keys under `approvals` and they sign: securefl policy sign.
# Try its cases: securefl policy test .     Change it: raise `version`, then securefl policy diff OLD NEW
securefl_policy: 1
federation: {emit.scalar(first.name)}
version: 1
valid: {{from: {first.year}-01-01, until: {first.year + 3}-12-31}}

budget:
  unit: record ## the noise hides one record
  neighbours: add-or-remove-one
  epsilon: {epsilon} ## this federation, all rounds together, for each member's data set
  delta: {first.delta} ## below one in the records of the largest member
  per_round: {{epsilon: {epsilon}}}
  per_dataset: {{epsilon: {epsilon}}} ## all federations together: what is spent does not come back
  overlap: 1 ## in how many members' data the same record may be

training:
  mechanisms: [poisson-gaussian]
  clip: {{at_most: 1.0, norm: l2}}
  noise_multiplier: {{at_least: 0.3}}
  optimizers: [sgd, adamw]
  learning_rate: {{at_least: 0.001, at_most: 10}}
  micro_batch: {{at_most: 256}}
  tokens: {{at_most: {max(128, first.max_tokens)}}}
  adapters: [{kind}]
  modules: {_flow(list(first.adapter.get("targets", ())))}
  rank: {{at_most: 32}}
  base_models: {_flow([first.model])}

protection:
  schemes: [masking, masked-ckks]
  min_cohort: {FEWEST} ## a sum over fewer is never opened
  threshold: {{at_least: {first.threshold}}} ## members it takes to open a mask
  colluding: 1 ## one member may pool what it knows with the coordinator

release: {{fields: [weights], to: members}}
context: {_flow({"purposes": [first.purpose], "regions": [first.region]})}
approvals: {{required: 0}} ## keys: {{NAME: KEY}}, from `securefl keys init`
""")


def cases(first: First) -> str:
    """Cases beside the policy: plans that it must grant, and plans that it must refuse."""
    plan: dict[str, Any] = {
        "federation": first.name, "purpose": first.purpose, "regions": [first.region], "members": len(first.members),
        "base_model": first.model, **first.adapter, "sampling_rate": str(first.sampling_rate), "noise_multiplier": 1,
        "steps": STEPS, "clip": 1, "divisor": first.divisor, "protection": "masking", "min_cohort": FEWEST,
        "threshold": first.threshold, "colluding": 1,
    }  # fmt: skip
    over = _number(first.epsilon + Fraction(1, 1_000_000))
    return f"""\
# Plans that the policy must grant, and plans that it must refuse, by which rules: securefl policy test .
securefl_cases: 1
day: {first.year}-06-01
plan:
{_block(plan)}\
cases:
  - {{name: what they agreed to, epsilon_round: 1, epsilon_after: {_number(first.epsilon)}, expect: grant}}
  - {{name: a millionth too much, epsilon_after: {over}, expect: refuse, rules: {_flow(OVER)}}}
  - {{name: too little noise, change: {{noise_multiplier: 0.29}}, expect: refuse, rules: [training.noise_multiplier]}}
  - {{name: another purpose, change: {{purpose: something-else}}, expect: refuse, rules: [context.purposes]}}
  - {{name: updates in the clear, change: {{protection: clear}}, expect: refuse, rules: [protection.schemes]}}
"""


def _aligned(text: str) -> str:
    """The text with each comment behind a value, ``## ``, in one column."""
    lines = (line.partition(" ## ") for line in text.split("\n"))
    return "\n".join(f"{before:<{COMMENTS}}# {after}" if mark else before for before, mark, after in lines)


def _number(value: Fraction) -> str:
    return str(emit.exactly(value))


def _flow(value: Any) -> str:  # noqa: ANN401 - whatever a document holds
    """A value in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_flow(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return (
        emit.scalar(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    )


def _block(value: Mapping[str, Any]) -> str:
    return "".join(f"  {name}: {_flow(each)}\n" for name, each in value.items())
