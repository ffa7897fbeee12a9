"""What a coordinator offers to train, as an invitation has it: what each party needs to build its own part."""

from __future__ import annotations

from functools import lru_cache

from pydantic import Field, model_validator

from securefl.documents import emit, strict
from securefl.documents.federation import Name
from securefl.documents.protection import ProtectionPart
from securefl.documents.strategy import ProbePart
from securefl.documents.strict import First, Part, Whole
from securefl.documents.task import AdapterPart, TaskPart

WHOLE = ("task", "adapter", "max_tokens")  # of a federation that has no tasks, or of one task


class OfferedTask(Part):
    """One of a federation's tasks: what is trained for it, and by whom."""

    members: tuple[Name, ...] = Field(min_length=2, description="who takes part in it")
    task: TaskPart
    adapter: AdapterPart
    max_tokens: Whole = Field(ge=4, le=8192, description="how much of a record its plans read")
    probe: tuple[ProbePart, ...] = Field((), max_length=256, description="public labelled text for weights by probe")


class Offer(Part):
    """What is trained, on which model, and how updates are hidden."""

    securefl_offer: First
    model: str = Field(min_length=1, description="what plans and policies call the base model")
    task: TaskPart | None = None
    adapter: AdapterPart | None = None
    max_tokens: Whole | None = Field(None, ge=4, le=8192)
    probe: tuple[ProbePart, ...] = Field((), max_length=256)
    tasks: dict[Name, OfferedTask] = Field(
        default_factory=dict, description="in place of these, where there are several"
    )
    protection: ProtectionPart

    @model_validator(mode="after")
    def _one_or_several(self) -> Offer:
        for name in WHOLE:
            if (getattr(self, name) is None) != bool(self.tasks):
                raise ValueError(f"`{name}` beside `tasks`: each has its own" if self.tasks else f"`{name}` is missing")
        return self


def text_of(offer: Offer) -> bytes:
    """The offer as a text that ``read`` takes."""
    return emit.text_of(emit.fields_of(offer))


@lru_cache(maxsize=64)  # the parties of one process are shown the same one
def read(text: bytes, place: str) -> Offer:
    """The offer in a text; ``place`` is what an error calls it.

    Raises:
        OperatorFault: it is none.
    """
    return strict.validate(strict.parse(text, place), Offer)
