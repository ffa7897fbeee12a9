"""A run's report: one shape, checked when it is written; JSON for programs, one self-contained page for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from securefl.shown import in_json, plainly

SCHEMA = Path(__file__).with_name("report.schema.json")


class Part(BaseModel):
    """A part of the report; nothing unknown stands in it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Outcome(Part):
    """How the run ended."""

    status: str
    why: str


class ModelPart(Part):
    """What was trained."""

    name: str
    digest: str
    trained_parameters: int


class HeldOut(Part):
    """Accuracy on one member's rows that were not trained on."""

    n: int
    majority: float | None = Field(description="accuracy of a constant answer; none for a language model")
    before: float
    after: float
    macro_f1: float | None
    broadcast: float | None = Field(description="the last broadcast, where members keep models of their own")
    local_only: float | None
    without_privacy: float | None


class MemberRow(Part):
    """One member."""

    name: str
    region: str
    heldout: HeldOut | None = Field(description="none where the rows are at a site of its own: they stay there")
    note: str


class RoundRow(Part):
    """One round."""

    round: int
    survivors: list[str]
    epsilon_after: float | None
    bytes_up: int
    bytes_down: int


class Accuracy(Part):
    """All members' held-out rows together."""

    measure: str = Field(description="what stands in every field here: accuracy, or nats per token, less of it better")
    majority: float | None = Field(description="accuracy of a constant answer; none for a language model")
    before: float
    after: float
    macro_f1: float | None
    broadcast: float | None = Field(description="the last broadcast, where members keep models of their own")
    local_only: float | None
    without_privacy: float | None
    note: str


class EpsilonPart(Part):
    """What was promised and spent, at the data set where it is most."""

    limit: float
    spent: float
    reserved: float
    left: float
    delta: float
    unit: str
    neighbours: str
    mechanism: str
    sampler: str
    accountant: str
    accountant_version: str
    rdp: float
    bound: str = Field(description="what the limit was enforced by: pld or renyi-filter")
    member: str


class AccountRow(Part):
    """One account."""

    member: str
    level: str
    name: str
    limit: float
    spent: float
    reserved: float
    left: float
    delta: float
    unit: str
    bound: str = Field(description="what the limit was enforced by: pld or renyi-filter")


class Bytes(Part):
    """What travelled, as receipts say: bodies of messages."""

    up: int
    down: int


class EncodingPart(Part):
    """The grid that updates are put on. How many values were clamped to it is private, and stands nowhere."""

    value_bits: int
    fraction_bits: int
    ring_bits: int
    capacity: int = Field(description="values whose sum cannot wrap around")


class Protections(Part):
    """What was on."""

    scheme: str
    min_cohort: int
    threshold: int | None
    colluding: int
    cohort_sizes: list[int]
    who_can_open: str
    silence: str = Field(description="what becomes of a round when members are not heard")
    encoding: EncodingPart
    engine: str | None = Field(
        description="what gave each record its gradient: fast or opacus; none where each site has its own"
    )
    noise_generator: str
    noise_multiplier: float
    clip_l2: float
    sampling_rate: tuple[int, int]


class ApprovalsPart(Part):
    """Who agreed to the policy; ``signed`` is false for ever for a run that was made without."""

    signed: bool
    author: str | None
    approved_by: list[str]
    required: int


class Report(Part):
    """Everything a run tells."""

    federation: str
    run: str
    outcome: Outcome
    policy_hash: str
    approvals: ApprovalsPart
    model: ModelPart
    members: list[MemberRow]
    rounds: list[RoundRow]
    accuracy: Accuracy | None = Field(description="none where held-out rows are at sites of their own")
    epsilon: EpsilonPart
    accounts: list[AccountRow]
    bytes: Bytes
    seconds: dict[str, float] = Field(description="wall time by link")
    protections: Protections
    warnings: list[str] = Field(description="what is known to be wrong with how it was trained")
    adapter: str | None
    versions: dict[str, str]


def schema() -> dict[str, Any]:
    """The JSON Schema of ``report.json``."""
    return Report.model_json_schema()


def write(facts: dict[str, Any], out: Path, *, page: bool = True) -> None:
    """``report.json`` is in ``out``, and with ``page`` also ``report.html`` and the pictures.

    Raises:
        pydantic.ValidationError: the facts have not the report's shape; nothing is written.
    """
    report = Report.model_validate(facts)
    plain = plainly(report.model_dump(mode="json"))
    if page:
        from securefl.audit import plots  # noqa: PLC0415

        _put(out / "report.html", page_of(plain, plots.draw(plain, out / "plots")))
    _put(out / "report.json", in_json(plain))


def page_of(plain: dict[str, Any], pictures: dict[str, str]) -> str:
    """One page that needs nothing else. Whatever stands in the facts is text, never markup.

    Args:
        plain: the report.
        pictures: each by its name, as SVG; what is not there is not shown.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415
    from markupsafe import Markup  # noqa: PLC0415

    folder = Path(__file__).with_name("templates")
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    drawn = {name: Markup(svg) for name, svg in pictures.items()}  # noqa: S704 - made by plots.draw, which escapes text
    return environment.get_template("report.html.j2").render(r=plainly(plain), pictures=drawn)


def _put(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
