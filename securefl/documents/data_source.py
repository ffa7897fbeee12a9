"""A member's data source as a person writes it: which file, which columns, which rows, and what is held out."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from securefl.documents import encodings
from securefl.documents.strict import Rational


def _pattern(raw: str) -> str:
    try:
        re.compile(raw)
    except re.error as fault:
        raise ValueError(f"no regular expression: {fault}") from fault
    return raw


def _bare(raw: str) -> str:
    if not re.fullmatch(r"\w+(\.\w+)*", raw, re.ASCII):
        what = "a split is a name, such as train; a part of it would take rows by their place"
        raise ValueError(f"{what}, and one row more would change the others: write `share: 1/10`")
    return raw


class Replace(BaseModel):
    """Text that is changed in every record, in order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pattern: Annotated[str, AfterValidator(_pattern)]
    with_: str = Field(alias="with")


class Partition(BaseModel):
    """One member's part of a file that several members of an experiment share; `members` parts cover it, none twice."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    members: int = Field(ge=2, description="how many parts")
    index: int = Field(ge=0, description="which of them, from 0")
    dirichlet: Rational = Field(description="of the members' shares of each label: small is uneven")
    seed: int = Field(0, ge=0, lt=2**63, description="the parts follow from it; public, the same for all members")
    at_least: int = Field(20, ge=1, description="records to train on that every member has; else it is refused")

    @model_validator(mode="after")
    def _possible(self) -> Partition:
        if self.index >= self.members:
            raise ValueError(f"index: {self.index} is none of {self.members} parts, counted from 0")
        if not 0 < self.dirichlet <= 10**6:
            raise ValueError("dirichlet is above 0, and at most 1000000")
        return self


class Span(BaseModel):
    """Numbers from one to another, both counted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    from_: int | None = Field(None, alias="from")
    to: int | None = None

    def holds(self, value: int) -> bool:
        """Return whether a number is in it."""
        return (self.from_ is None or self.from_ <= value) and (self.to is None or value <= self.to)


class DataSource(BaseModel):
    """A member's records: which file, which columns, which rows, and what is held out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str = Field(description="CSV, TSV, JSON Lines or Parquet; a folder of Parquet; or a Hugging Face data set")
    split: Annotated[str, AfterValidator(_bare)] = Field("train", description="of a Hugging Face data set, by its name")
    encoding: Annotated[str, AfterValidator(encodings.known)] = "utf-8"
    multiline: bool = Field(
        False, description="whether quoted values of a CSV file may have several lines; else one that does is an error"
    )
    delimiter: str | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="of a CSV file; else whichever of , ; | and tab makes the columns `text` and `label` of its header",
    )
    text: str = Field("text", description="the column with the text")
    label: str = Field("label", description="the column with the label")
    labels: dict[str, str] = Field(default_factory=dict, description="the file's labels, as the task calls them")
    missing: tuple[str, ...] = Field(
        (), description="what else stands for no value, such as NA; absent, null, NaN and blank values always do"
    )
    on_missing: Literal["drop", "refuse"] = Field("drop", description="rows without a text: left out, or an error")
    contains: str | None = Field(None, min_length=1, description="only rows whose text contains this, in any case")
    first_of: tuple[str, ...] = Field(
        (),
        description="only rows where `contains` is the first of these: no row twice; in a partition, with any of them",
    )
    unlabelled: Literal["refuse", "keep", "drop"] = Field(
        "refuse", description="rows whose label is empty or absent: an error, records without a label, or left out"
    )
    labelled: Rational | None = Field(
        None, ge=0, le=1, description="share of records that keep their label, each chosen by its own text; the others "
        "count as records without one: for experiments",
    )  # fmt: skip
    replace: tuple[Replace, ...] = ()
    deduplicate: Literal[True] = Field(True, description="records are distinct texts as they are trained on: always")
    where: dict[str, str | tuple[str, ...] | Span] = Field(
        default_factory=dict, description="only rows with one of these values, or a number in this span, in each column"
    )
    share: Rational | None = Field(
        None, gt=0, le=1, description="share of records that are used, each chosen by its own text"
    )
    partition: Partition | None = Field(None, description="one part of these records, for experiments")
    heldout: float = Field(0.2, ge=0, lt=1, description="share that is never trained on")

    @property
    def has_unlabelled(self) -> bool:
        """Whether records can be without a label."""
        return self.unlabelled == "keep" or self.labelled is not None

    @model_validator(mode="before")
    @classmethod
    def _without_a_limit(cls, given: object) -> object:
        if isinstance(given, dict) and "limit" in given:
            raise ValueError("limit: with it, a row more would change which other rows are used; write `share: 1/10`")
        return given

    @model_validator(mode="after")
    def _consistent(self) -> DataSource:
        if self.delimiter is not None and self.delimiter in '"\r\n':
            raise ValueError("delimiter: a quotation mark or the end of a line is none")
        if self.text == self.label:
            raise ValueError(f"text and label are both the column {self.text!r}")
        lowered = [each.lower() for each in self.first_of]
        if len(set(lowered)) != len(lowered) or "" in lowered:
            raise ValueError("first_of: each of them once, and none empty")
        whole = self.partition is not None and self.contains is None
        if self.first_of and not whole and (self.contains or "").lower() not in lowered:
            raise ValueError(f"contains: {self.contains!r} is not one of first_of ({', '.join(self.first_of)})")
        return self
