"""What a person should know of a field beside its type: its unit, an example, and why it is there.

Schemas and reference pages show it (``documents.schemas``). A row is of a field of one part, ``Part.field``, or of all
fields of a name. What a field means stands with the field itself; ``what`` says it where nothing stands there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Note:
    """What is known of one field, or of all fields of one name."""

    unit: str = ""  # of a number
    example: Any = None  # as a document has it
    what: str = ""
    why: str = ""


_KEY = "0" * 63 + "1"
_N = Note

_ROWS: dict[str, Note] = {
    # All documents.
    "name": _N(example="north", what="lower-case letters, digits, `.`, `_` and `-`"),
    "purpose": _N(
        example="customer-service",
        what="what the adapter is for",
        why="A policy lists the purposes that it allows; another one is refused before anything is trained.",
    ),
    "region": _N(example="EU", what="where it stands", why="A policy lists the regions that it allows."),
    "task": _N(what="what the adapter is for"),
    "adapter": _N(what="what is trained on the frozen model"),
    "training": _N(what="how members train"),
    "protection": _N(what="how updates are hidden on their way"),
    "FederationFile.protection": _N(example="masking"),
    "strategy": _N(what="what becomes of the sum of the updates"),
    "model": _N(example="./model", what="the base model"),
    "key": _N(example=_KEY),
    "coordinator": _N(example=_KEY),
    "custodian": _N(example=_KEY),
    "members": _N(what="who takes part"),
    "seed": _N("", 1),
    # Training.
    "rounds": _N(
        "rounds",
        20,
        "how often members train and their updates are summed",
        "Each round is asked for, priced and paid on its own, so a run can end early and keep what is left.",
    ),
    "steps": _N("steps", 8, why="The price of a round grows with its steps, about with their square root."),
    "sampling_rate": _N(
        "a probability",
        "1/20",
        why="A record that is seldom drawn is well hidden: this rate is most of what makes a round cheap. At few "
        "records, few are in a step: rate x records is how many on average.",
    ),
    "sampler": _N(
        example="full",
        why="Full batches pay where a step is cheap and epsilon small: noise is added once a step, whatever its "
        "size. Nothing is sampled then, so a step costs more, and a run has few.",
    ),
    "average_last": _N(
        "rounds",
        20,
        why="A mean of states has less noise than the last one, and costs nothing: take half of the rounds.",
    ),
    "features": _N(
        why="Without them a few long features are clipped, and noise hides all but what every text shares.",
    ),
    "FeaturesPart.bias": _N("of a feature", 0.3),
    "noise_multiplier": _N(
        "clips",
        1.0,
        why="More noise costs less epsilon and teaches less. Leave it out and give `epsilon`, and the "
        "least noise that keeps within it is worked out before the first round.",
    ),
    "clip": _N("L2 norm", 1.0, why="The noise is in proportion to it; a policy limits it, and noise with it."),
    "update_clip": _N("L2 norm", 1.0, why="What is clipped away is lost; what is left room for is noise."),
    "divisor": _N(
        "records",
        120,
        why="Unit record needs it, and there is no default. A step divides the noised sum of its gradients by this "
        "number, to make a mean of it. The size of the sample would be the obvious number, but it depends on who has "
        "which records, and each record could be seen in it; so a public constant stands in its place. Take about "
        "sampling_rate x records of a typical member; of a full batch, its records. Twice as much halves the step as "
        "half the learning rate does; "
        "epsilon does not depend on it.",
    ),
    "learning_rate": _N(
        "1",
        0.5,
        "how far a step goes",
        "With sgd the noise is scaled by it as well: too small, and noise is below the grid and members refuse.",
    ),
    "learning_rate_end": _N("1", 0.1),
    "max_tokens": _N("tokens", 64, "how much of a record is read; the rest of a longer text is cut off"),
    "micro_batch": _N("records", 32),
    "micro_tokens": _N("tokens", 4096),
    "TrainingPart.epsilon": _N("epsilon", 8, why="Give this or noise_multiplier, not both."),
    # Adapters and strategies.
    "AdapterPart.targets": _N(example=["query", "value"]),
    "rank": _N("1", 8, "of LoRA; width of a bottleneck; vectors of a prompt or prefix"),
    "layer": _N("blocks", 4),
    "alpha": _N("1", 16, "LoRA's scale is alpha / rank"),
    "AdapterPart.seed": _N("", 1, why="Every member must start alike, and A says nothing of anybody's records."),
    "gamma": _N("L2 norm", "1/100"),
    "target": _N("a share", "1/2"),
    "rate": _N("1", "1/5"),
    "count_noise": _N("records", 6),
    "weight": _N("1", 1),
    "temperature": _N("1", 1),
    "LossPart.threshold": _N("a probability", 0.9),
    "threshold_end": _N("a probability", 0.7),
    "width": _N("1", 1),
    "first_round": _N("rounds", 2),
    "momentum": _N("a share", 0.5),
    "first": _N("a share", 0.9),
    "second": _N("a share", 0.99),
    "floor": _N("1", "1/1000"),
    "StrategyPart.pull": _N("a share", 0.5),
    "PlanDocument.pull": _N("a share", 0.5),
    "sharpness": _N("1", 5),
    "WeightPart.clip": _N("1", 2),
    "AttentionPart.clip": _N("1", 4),
    "WeightPart.share": _N("1", 1),
    "renewal": _N("a share", 1),
    "AttentionPart.keys": _N(example=["blocks.1"]),
    "ProbePart.text": _N(example="thank you", what="a public text, nobody's record"),
    "ProbePart.label": _N(example="good", what="its label"),
    "TaskPart.labels": _N(example=["negative", "positive"]),
    # Protection and patience.
    "scheme": _N(what="masking, ckks, bfv (these two have masks inside unless the custodian is trusted), or clear"),
    "min_cohort": _N(
        "members",
        3,
        "a sum over fewer members is never opened; else as the policy says",
        "One's own update can be taken off a sum: of a sum over two, each knows the other's.",
    ),
    "threshold": _N(
        "members",
        4,
        "members it takes to open a mask; else the least that is safe",
        "More than half of all, so that no two groups open two sums over members that differ by one.",
    ),
    "colluding": _N(
        "members",
        1,
        "members assumed to pool what they know with the coordinator; else as the policy says",
        "A sum has to hold for the honest ones without them: it is taken off every count.",
    ),
    "value_bits": _N(
        "bits",
        24,
        "width of one value on the grid, with its sign",
        "What is wider is clamped; what is narrower leaves room for more members in one ring.",
    ),
    "fraction_bits": _N(
        "bits",
        20,
        "the grid that values are rounded to is 2**-fraction_bits",
        "On too coarse a grid small updates and noise round to nothing; on too fine a one large updates are clamped.",
    ),
    "ring_bits": _N(
        "bits", 32, "values are added modulo 2**ring_bits", "It holds 2**(ring_bits - value_bits) members."
    ),
    "join": _N("seconds", 60),
    "enrol": _N("seconds", 60),
    "train": _N("seconds", 7200),
    "ask": _N("seconds", 60),
    "close": _N("seconds", 60),
    "quorum": _N("members", 4),
    "grace": _N("seconds", 300),
    # Data.
    "DataSource.file": _N(
        example="letters.csv",
        why="A relative path is beside the document. Nothing is fetched: a data set by name has "
        "to be in this machine's cache.",
    ),
    "encoding": _N(what="how the file's bytes are read: utf-8, utf-16, latin1 and other names that Python knows"),
    "DataSource.label": _N(why="Its values are the task's `labels`, or `labels` below says which of them they are."),
    "DataSource.labels": _N(example={"0": "negative", "1": "positive"}),
    "delimiter": _N(example=";"),
    "missing": _N(example=["NA", "null"], why="NA may also be somebody's answer, so no word is taken for one unasked."),
    "contains": _N(example="@united"),
    "first_of": _N(example=["@united", "@jetblue"]),
    "labelled": _N("a share", 0.5),
    "replace": _N(
        example=[{"pattern": "@\\w+", "with": "@user"}], what="text that is changed in every record, in order"
    ),
    "where": _N(example={"language": "en", "year": {"from": 2020, "to": 2024}}),
    "DataSource.share": _N("a share", "1/10"),
    "heldout": _N(
        "a share",
        0.2,
        why="A fifth is held out unless this says otherwise. Which rows these are follows from each "
        "row's own text, so the same text is on the same side at every member, and one row more moves no other.",
    ),
    "deduplicate": _N(why="Two rows with one text would be two records that hide nobody: the price is for one."),
    "Partition.members": _N("members", 4),
    "index": _N("1", 0),
    "dirichlet": _N("1", 0.5),
    "Partition.seed": _N("", 1),
    "Partition.at_least": _N("records", 20),
    "Replace.pattern": _N(example="@\\w+", what="a regular expression, as Python has them"),
    "with": _N(example="@user", what="what stands in its place"),
    "Span.from": _N("1", 2020, "the least number, counted; none: any below"),
    "Span.to": _N("1", 2024, "the largest number, counted; none: any above"),
    # Federation, suite, experiment.
    "securefl_federation": _N(example=1, what="version of this format"),
    "FederationFile.name": _N(example="six-airlines", what="as the policy says"),
    "policy": _N(example="policy.yaml"),
    "FederationFile.members": _N(
        example=[{"name": "north", "region": "EU"}, {"name": "south", "region": "EU"}, {"name": "west", "region": "EU"}]
    ),
    "FederationFile.data": _N(example={"text": "text", "label": "label", "heldout": 0.2}),
    "MemberPart.dataset": _N(
        example="letters-2026",
        why="Epsilon is spent on records, not on names: what holds the same records has to be "
        "one account, whoever uses them. Records that come back under another name are refused.",
    ),
    "MemberPart.data": _N(example={"file": "north.csv"}),
    "MemberPart.rounds": _N("rounds", 2),
    "FederationFile.tasks": _N(example={"movies": {"members": ["north", "south", "west"]}}),
    "TaskOfSuite.members": _N(example=["north", "south"]),
    "TaskOfSuite.task": _N(what="over the document's own `task`: what differs"),
    "TaskOfSuite.adapter": _N(what="over the document's own `adapter`: what differs"),
    "TaskOfSuite.data": _N(what="over the document's own `data`: what differs"),
    "TaskOfSuite.training": _N(what="over the document's own `training`: what differs"),
    "TaskOfSuite.strategy": _N(what="over the document's own `strategy`: what differs"),
    "securefl_experiment": _N(example=1, what="version of this format"),
    "ExperimentFile.name": _N(example="ranks", what="what pictures and tables call it"),
    "ExperimentFile.federation": _N(example="federation.yaml"),
    "ExperimentFile.epsilon": _N("epsilon", [1, 8, "none"]),
    "seeds": _N("", [1, 2, 3], "one run for each, with each epsilon and arm", "Results of one seed say little."),
    "arms": _N(example=[{"name": "plain"}, {"name": "wide", "set": {"adapter.rank": 16}}], what="what is compared"),
    "ArmPart.name": _N(example="wide", what="what pictures and tables call it"),
    "set": _N(example={"adapter.rank": 16}),
    # Site and coordinator.
    "securefl_site": _N(example=1, what="version of this format"),
    "SiteFile.model": _N(example={"name": "acme/encoder", "at": "models/encoder"}, what="its base model"),
    "limits": _N(what="the most that a plan may ask here, whatever a policy allows"),
    "AtMost.at_most": _N("as the field says", 32, "the largest that is taken"),
    "Between.at_least": _N("as the field says", 0.001, "the least that is taken"),
    "Between.at_most": _N("as the field says", 10, "the largest that is taken"),
    "UpTo.at_most": _N("as the field says", 2**30, "the largest that is taken; 0: nothing"),
    "LimitsPart.kept": _N(
        why="A hidden state is kept for each token of a record, or one feature for each record before a head alone: "
        "`securefl site check --load` says how much that is here.",
    ),
    "LimitsPart.learning_rate": _N("1", what="how far a step may go"),
    "ModelPart.name": _N(example="acme/encoder"),
    "socket": _N(example="sockets/north"),
    "SubfederationPart.home": _N(example="coordinator"),
    "SubfederationPart.members": _N(example={"a": {}, "b": {}}),
    "TrustPart.members": _N(example={"north": {"key": _KEY, "region": "EU"}, "south": {"key": _KEY, "region": "EU"}}),
    "OfferedTask.members": _N(example=["north", "south"]),
    "securefl_coordinator": _N(example=1, what="version of this format"),
    "CoordinatorFile.members": _N(example={"north": "sockets/north", "south": "sockets/south"}),
    "CoordinatorSuiteFile.members": _N(example={"north": "sockets/north", "south": "sockets/south"}),
    "CoordinatorSuiteFile.tasks": _N(example={"movies": {"members": ["north", "south"]}}),
    "TaskOfCoordinator.members": _N(example=["north", "south"]),
    "securefl_project": _N(example=1, what="version of this format"),
    "server": _N(what="the one machine that listens"),
    "host": _N(example="hub.example.org"),
    "port": _N("a port", 8002),
    "ProjectFile.sites": _N(example=["north", "south"]),
    "FederationFile.sites": _N(example="sites"),
    # Policy.
    "securefl_policy": _N(example=1),
    "PolicyDocument.federation": _N(example="six-airlines"),
    "version": _N("versions", 1),
    "valid": _N(what="when the policy holds"),
    "from": _N(example="2026-01-01"),
    "until": _N(example="2030-12-31"),
    "budget": _N(what="what may be spent"),
    "Budget.epsilon": _N(
        "epsilon",
        8,
        why="A record changes the odds of anything that is seen by a factor of exp(epsilon) at most, but "
        "for a probability of delta. Small is private.",
    ),
    "delta": _N("a probability", 1e-5, why="Take less than 1 / records: else one record may be lost outright."),
    "per_round": _N(what="what one round may cost"),
    "per_dataset": _N(what="what all federations together may cost one data set"),
    "PerRound.epsilon": _N("epsilon", 2),
    "PerRun.epsilon": _N("epsilon", 4),
    "PerDataset.epsilon": _N("epsilon", 8),
    "overlap": _N("data sets", 1, why="A record that two members hold is spent twice."),
    "PolicyDocument.training": _N(what="how members may train"),
    "mechanisms": _N(example=["poisson-gaussian"]),
    "Training.clip": _N(what="how far one record may move a step"),
    "Training.noise_multiplier": _N(what="how much noise every step needs"),
    "Training.learning_rate": _N(what="how far a step may go"),
    "Training.divisor": _N(what="what the sum of a step may be divided by", why="A large divisor is a small step."),
    "Training.micro_batch": _N(what="how many records may be in memory at once"),
    "Training.tokens": _N(what="how much of a text may be read"),
    "Training.base": _N(what="where a plan may start from"),
    "Training.rank": _N(what="how large an adapter may be"),
    "modules": _N(example=["query", "value"]),
    "base_models": _N(example=["./model"]),
    "norm_at_most": _N("L2 norm", 1000),
    "ClipLimit.at_most": _N("L2 norm", 1.0),
    "DivisorLimit.at_most": _N("records", 10000),
    "FractionBitsLimit.at_least": _N("bits", 18),
    "FractionBitsLimit.at_most": _N("bits", 20),
    "ValueBitsLimit.at_most": _N("bits", 24),
    "GridLimit.fraction_bits": _N(what="how fine the grid may be"),
    "GridLimit.value_bits": _N(what="how wide a value may be"),
    "max_age_days": _N("days", 90),
    "LearningRateLimit.at_least": _N("1", 0.001),
    "LearningRateLimit.at_most": _N("1", 10),
    "MicroBatchLimit.at_most": _N("records", 256),
    "TokenLimit.at_most": _N("tokens", 128),
    "NoiseLimit.at_least": _N("clips", 0.5),
    "RankLimit.at_most": _N("1", 8),
    "RatioLimit.at_most": _N("1", 1),
    "ThresholdLimit.at_least": _N("members", 3),
    "Protection.threshold": _N(what="how many members it must take to open a mask"),
    "Protection.grid": _N(what="the grid that updates are added on"),
    "schemes": _N(example=["masking"]),
    "PolicyDocument.sharing": _N(what="what members may keep, and how they may count"),
    "PolicyDocument.keys": _N(what="how long a party may speak by one key"),
    "weightings": _N("sums", 1),
    "weight_ratio": _N(what="how unequally members may count"),
    "release": _N(what="what may leave a site"),
    "Release.fields": _N(example=["weights"]),
    "context": _N(what="what for, and where"),
    "purposes": _N(example=["customer-service"]),
    "regions": _N(example=["EU"]),
    "required": _N("persons", 1),
    "Parent.policy": _N(example="../world.policy.yaml"),
    # Plan.
    "securefl_plan": _N(example=1, what="version of this format"),
    "PlanDocument.federation": _N(example="six-airlines"),
    "PlanDocument.members": _N("members", 4, "how many are in the cohort; they are made up"),
    "PlanDocument.divisor": _N(what="what the noised sum of a step is divided by, a public constant"),
    "base_model": _N(example="./model"),
    "model_sha256": _N(example="0" * 64, what="the model's digest, where the policy names one"),
    "PlanDocument.labels": _N(example=["no", "yes"], what="of a classification"),
    "PlanDocument.custodian": _N(example=True),
    "honest": _N("members", 2),
    "dimension": _N("values", 14592),
    "PlanDocument.release": _N(example=["weights"], what="what leaves a site"),
    "round": _N("rounds", 1, "which round of its run"),
}
NOTES: Final[Mapping[str, Note]] = MappingProxyType(_ROWS)


def note_of(part: str, field: str, *, is_part: bool = False) -> Note:
    """What is known of a field: its own row over that of its name.

    Args:
        part: which part of a document has it.
        field: its name.
        is_part: whether the field is a part itself, of which a row of its name gives no example.
    """
    mine, all_ = NOTES.get(f"{part}.{field}", Note()), NOTES.get(field, Note())
    what, why = mine.what or all_.what, mine.why or all_.why
    if is_part:
        return Note(mine.unit, mine.example, what, why)
    return Note(mine.unit or all_.unit, all_.example if mine.example is None else mine.example, what, why)
