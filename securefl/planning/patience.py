"""How long a plan waits: as its document says, as it adds up from level to level, and within what its round needs."""

from __future__ import annotations

from securefl.documents.federation import Loaded
from securefl.errors import OperatorFault, PeerFault
from securefl.terms import Patience, ProtectionSpec

SPARE = 10  # of a training's time one part in so many is the node's own: it decides, starts its run, and seals the sum


def patience_of(loaded: Loaded, cover: ProtectionSpec) -> Patience:
    """Read how long a plan waits; by default everybody is waited for.

    Raises:
        OperatorFault: a quorum that opens no sum, or that nobody can reach; or a sub-federation would take longer.
    """
    patience = _written(loaded) or Patience()
    check_quorum(patience, cover, len(loaded.file.members), f"{loaded.path}: patience.quorum")
    _check_levels(loaded, patience)
    return patience


def check_quorum(patience: Patience, cover: ProtectionSpec, members: int, place: str) -> None:
    """Check that a quorum, if there is one, opens a sum and can be reached.

    Raises:
        OperatorFault: it does not; with all numbers.
    """
    least = max(cover.min_cohort, cover.threshold if cover.scheme.has_masks else 0)
    if patience.quorum and not least <= patience.quorum <= members:
        what = f"a quorum of {patience.quorum}, where a sum needs {least} of {members} members"
        raise OperatorFault(what, f"write {least} to {members}, or leave quorum out", place)


def _written(loaded: Loaded) -> Patience | None:
    return None if loaded.file.patience is None else loaded.file.patience.patience()


def patience_below(parent: Patience, own: Patience | None, rounds: int) -> Patience:
    """How long a sub-federation waits inside one training of its parent's plan: its own run is over before that is.

    A tenth of the parent's time is left for what the node does beside that run.

    Args:
        own: as its document says; None: its parent's time, divided among its phases.
        rounds: of its own for each of its parent's.

    Raises:
        PeerFault: its phases take longer together than its parent waits; with both numbers.
    """
    have = parent.train_s
    left = have - _spare(have)
    try:
        patience = Patience.within(left, rounds) if own is None else own
    except ValueError as fault:
        raise PeerFault(str(fault)) from fault
    need = patience.run_s(rounds)
    if need > left:
        what = f"{rounds} rounds of the sub-federation take up to {need} s, and its parent waits {have} s"
        raise PeerFault(f"{what}, of which {_spare(have)} s are the node's own")
    return patience


def _spare(have: int) -> int:
    return -(-have // SPARE)


def _enough(need: int) -> int:
    """Return the least that a parent waits for rounds below that need so many seconds."""
    return -(-need * SPARE // (SPARE - 1))


def _check_levels(loaded: Loaded, patience: Patience) -> None:
    """Check that every sub-federation of a document is over before its parent stops waiting for it."""
    for member in loaded.file.members:
        child = loaded.below.get(member.name)
        if child is None:
            continue
        own = _written(child)
        try:
            below = patience_below(patience, own, member.rounds)
        except PeerFault as fault:
            need = _enough((own or Patience()).run_s(member.rounds))
            remedy = f"write `patience: {{train: {need}}}` there, or shorter phases at {member.name}"
            raise OperatorFault(str(fault), remedy, f"{loaded.path}: members.{member.name}") from fault
        _check_levels(child, below)
