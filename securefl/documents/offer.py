"""What a coordinator offers to train, as an invitation has it: what each party needs to build its own part."""

from __future__ import annotations

from functools import lru_cache

from pydantic import Field

from securefl.documents import emit, strict
from securefl.documents.protection import ProtectionPart
from securefl.documents.strategy import ProbePart
from securefl.documents.strict import First, Part, Whole
from securefl.documents.task import AdapterPart, TaskPart


class Offer(Part):
    """What is trained, on which model, and how updates are hidden."""

    securefl_offer: First
    model: str = Field(min_length=1, description="what plans and policies call the base model")
    task: TaskPart
    adapter: AdapterPart
    max_tokens: Whole = Field(ge=4, le=8192)
    probe: tuple[ProbePart, ...] = Field((), max_length=256)
    protection: ProtectionPart


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
