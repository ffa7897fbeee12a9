"""How long a coordinator waits for answers: in each phase of a run, and once enough have come."""

from __future__ import annotations

from dataclasses import dataclass, fields

MOST_S = 30 * 24 * 3600  # 30 days
QUESTIONS = 2  # that a round asks after sealing, at most: no protection asks more often


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds, each from 1 to 30 days. A phase ends when everybody has answered, or when its time is over."""

    join_s: int = 600  # for `Invite`, once in a run
    enrol_s: int = 600  # for `Enrol`, in a round
    train_s: int = 3600  # for `Propose`: a site decides, trains and seals
    ask_s: int = 600  # for each `Ask`
    close_s: int = 600  # for `Close`, once in a run
    quorum: int = 0  # once so many members have answered, the others have `grace_s` more; 0: everybody is waited for
    grace_s: int = 60  # from 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), 0 if field.name in ("quorum", "grace_s") else 1
            if not least <= value <= MOST_S:
                raise ValueError(f"{field.name}={value} is not in [{least}, {MOST_S}]")

    @property
    def round_s(self) -> int:
        """The longest that one round takes."""
        return self.enrol_s + self.train_s + QUESTIONS * self.ask_s

    def run_s(self, rounds: int) -> int:
        """The longest that a run of so many rounds takes."""
        return self.join_s + rounds * self.round_s + self.close_s

    @classmethod
    def within(cls, seconds: int, rounds: int) -> Patience:
        """Divide a time among the phases of a run that must not take longer, in the proportions of the defaults.

        Raises:
            ValueError: a phase would have no second.
        """
        whole = cls()
        parts = min(seconds, whole.run_s(rounds))
        each = {name: getattr(whole, name) * parts // whole.run_s(rounds) for name in PHASES}
        if not all(each.values()):
            raise ValueError(f"{seconds} s cannot be divided among the phases of {rounds} rounds")
        return cls(**each)


PHASES = ("join_s", "enrol_s", "train_s", "ask_s", "close_s")
