"""The document that describes an experiment: a federation, and what differs from run to run.

A run is an arm, an epsilon and a seed. The seed decides what is public: A, the split of records over members, the
samples of open training. Private noise and samples are fresh in every run, whatever the seed.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, model_validator

from securefl.documents import federation_file, strict, suite_file
from securefl.documents.federation import Loaded, Name
from securefl.documents.strict import Document, First, Part, Path_, Rational, Whole
from securefl.errors import OperatorFault

OPEN = "none"  # the epsilon of runs that are trained without privacy
DECIDED = ("adapter.seed", "data.partition.seed", "training.epsilon", "training.noise_multiplier", "runtime", "sites")
_RATIONAL: TypeAdapter[Fraction] = TypeAdapter(Rational)


def _epsilon(raw: Any) -> Fraction | None:  # noqa: ANN401 - whatever the document holds
    if raw == OPEN:
        return None
    try:
        number = _RATIONAL.validate_python(raw)
    except ValidationError:
        number = Fraction(0)
    if number <= 0:
        raise ValueError(f"it should be above 0, or {OPEN}")
    return number


class ArmPart(Part):
    """One way to train: a name, and the fields of the federation's file it has otherwise."""

    name: Name
    set: dict[str, Any] = Field(default_factory=dict, description="dotted path: value")
    without_privacy: dict[str, Any] = Field(default_factory=dict, description="the same, for its runs without privacy")


class ExperimentFile(Part):
    """A whole experiment, as it is written down."""

    securefl_experiment: First
    name: Name
    federation: str = Field(description="the base federation's file; everything else is what differs")
    epsilon: tuple[Annotated[Fraction | None, BeforeValidator(_epsilon)], ...] = Field(
        min_length=1, description="what each run may cost; none: trained without privacy"
    )
    seeds: tuple[Annotated[Whole, Field(ge=0, lt=2**63)], ...] = Field(min_length=1)
    arms: tuple[ArmPart, ...] = Field(min_length=1)
    without_privacy: dict[str, Any] = Field(
        default_factory=dict, description="fields that only the runs without privacy have otherwise, such as their step"
    )

    @model_validator(mode="after")
    def _names_fit(self) -> ExperimentFile:
        if len({_label(each) for each in self.epsilon}) < len(set(self.epsilon)):
            raise ValueError("two epsilons agree in their first six digits")
        return self


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of the grid."""

    arm: str
    epsilon: Fraction | None  # None: without privacy
    seed: int

    @property
    def name(self) -> str:
        """What its folder is called."""
        return f"{self.arm}-{_label(self.epsilon)}-{self.seed}"


def _label(epsilon: Fraction | None) -> str:
    return OPEN if epsilon is None else f"{float(epsilon):g}"


@dataclass(frozen=True, slots=True)
class Experiment:
    """An experiment whose every run has a whole federation of its own."""

    file: ExperimentFile
    text: bytes
    base: Loaded
    runs: tuple[tuple[Cell, Loaded], ...]  # seed by seed, so that one process can keep records and tokens


def load(path: Path) -> Experiment:
    """The experiment at ``path``: every federation in its grid is valid.

    Raises:
        OperatorFault: anything is not as it must be, with file, line and field.
    """
    document = strict.read(path)
    if document.has("securefl_federation"):
        remedy = "give an experiment that names it under `federation`"
        raise OperatorFault("this is a federation's file, not an experiment", remedy, document.name)
    file = strict.validate(document, ExperimentFile)
    _each_once(document, file)
    base_path = path.parent / file.federation
    base_document = strict.read(base_path)
    if suite_file.is_suite(base_document):
        place = f"{document.name}:{document.line_of(('federation',))}: federation"
        what = f"{base_path} has tasks, and an experiment compares runs of one federation"
        raise OperatorFault(what, "give the file of one: with one task's `task`, `adapter`, `data` and members", place)
    base = federation_file.of(base_document, base_path)
    runs = []
    for seed in file.seeds:
        for index, arm in enumerate(file.arms):
            for epsilon in file.epsilon:
                cell = Cell(arm.name, epsilon, seed)
                changed = _changed(document, base_document, index, arm, cell)
                runs.append((cell, federation_file.of(changed, base_path)))
    return Experiment(file, document.text, base, tuple(runs))


def _each_once(document: Document, file: ExperimentFile) -> None:
    named: dict[str, list[Any]] = {
        "arms": [arm.name for arm in file.arms],
        "epsilon": list(file.epsilon),
        "seeds": list(file.seeds),
    }
    for field, values in named.items():
        for index, value in enumerate(values):
            if value in values[:index]:
                shown = _label(value) if field == "epsilon" else value
                place = f"{document.name}:{document.line_of((field, index))}: {field}.{index}"
                raise OperatorFault(f"{shown} stands twice", "keep one", place)


def _decided(base: Document, cell: Cell) -> dict[str, Any]:
    """What the grid says of one run. Without privacy nothing is calibrated: the noise is there for the form alone."""
    private = cell.epsilon is not None
    values: dict[str, Any] = {
        "training.epsilon": cell.epsilon,
        "training.noise_multiplier": None if private else 1,
        "adapter.seed": cell.seed,
        "runtime": "inprocess",  # many runs at once are parallel enough
    }
    if isinstance(base.value.get("data"), dict) and "partition" in base.value["data"]:
        values["data.partition.seed"] = cell.seed
    return values


def _changed(document: Document, base: Document, index: int, arm: ArmPart, cell: Cell) -> Document:
    """The base federation's document with an arm's fields, then the grid's; lines are those of the experiment."""
    value = copy.deepcopy(base.value)
    lines: dict[Path_, int] = {(): document.line_of(("arms", index))}
    given: list[tuple[Path_, dict[str, Any]]] = [(("arms", index, "set"), arm.set)]
    if cell.epsilon is None:
        given.append((("without_privacy",), document.value.get("without_privacy", {})))
        given.append((("arms", index, "without_privacy"), arm.without_privacy))
    for above, fields in given:
        for dotted, new in fields.items():
            line = document.line_of((*above, dotted))
            place = f"{document.name}:{line}: {'.'.join(map(str, above))}.{dotted}"
            if any(dotted == each or each.startswith(dotted + ".") for each in DECIDED):
                remedy = "leave it out; set fields beside it one by one"
                raise OperatorFault("the experiment itself decides this", remedy, place)
            _put(value, dotted, new, place)
            lines.update({_parts(dotted)[:depth]: line for depth in range(1, len(_parts(dotted)) + 1)})
    decided = _decided(base, cell)
    for dotted, new in decided.items():
        _put(value, dotted, new, f"{base.name}: {dotted}")
    return Document(document.name, base.text + b"\n" + repr((given, decided)).encode(), value, lines)


def _parts(dotted: str) -> Path_:
    return tuple(int(part) if part.isdigit() else part for part in dotted.split("."))


def _put(value: Any, dotted: str, new: Any, place: str) -> None:  # noqa: ANN401
    """``value`` has ``new`` at this path."""
    *outer, last = _parts(dotted)
    for depth, part in enumerate((*outer, last)):
        fits = isinstance(value, dict) and isinstance(part, str) and part != ""
        listed = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if not fits and not listed:
            inside = ".".join(map(str, outer[:depth])) or "the federation"
            raise OperatorFault(
                f"nothing is called `{part}` in `{inside}`", "write a path of the federation's file", place
            )
        if depth == len(outer):
            value[part] = copy.deepcopy(new)
        else:
            value = value.setdefault(part, {}) if isinstance(value, dict) else value[part]
