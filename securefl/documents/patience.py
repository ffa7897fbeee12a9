"""How long a coordinator waits, as a person writes it."""

from __future__ import annotations

from pydantic import Field

from securefl.documents.strict import Part, Whole
from securefl.terms.patience import MOST_S, Patience

_D = Patience()


class PatiencePart(Part):
    """How long a coordinator waits in each phase, in seconds; each from 1 to 30 days."""

    join: Whole = Field(_D.join_s, ge=1, le=MOST_S, description="for members to join the run, once")
    enrol: Whole = Field(_D.enrol_s, ge=1, le=MOST_S, description="for keys and shares, in a round")
    train: Whole = Field(_D.train_s, ge=1, le=MOST_S, description="for a site to decide, train and seal, in a round")
    ask: Whole = Field(
        _D.ask_s, ge=1, le=MOST_S, description="for each answer that opens a sum; at most two in a round"
    )
    close: Whole = Field(_D.close_s, ge=1, le=MOST_S, description="for everybody's last word, once")
    quorum: Whole | None = Field(
        None, ge=1, description="once so many members have answered, the others have `grace` more; else all are awaited"
    )
    grace: Whole = Field(_D.grace_s, ge=0, le=MOST_S, description="for those who have not answered, after a quorum has")

    def patience(self) -> Patience:
        """Say the same as a plan does."""
        return Patience(
            self.join, self.enrol, self.train, self.ask, self.close, self.quorum or 0, self.grace
        )  # fmt: skip
