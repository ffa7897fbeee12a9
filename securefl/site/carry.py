"""One site whom no wire reaches: it answers the packages that a courier brought, into packages for the way back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from securefl.errors import OperatorFault
from securefl.runtime import courier_packages
from securefl.runtime.answering import Handler, said
from securefl.runtime.courier_packages import NotCarried, Way
from securefl.terms import MemberId, PublicKey
from securefl.terms.parties import COORDINATOR

if TYPE_CHECKING:
    from securefl.keys import Identity


@dataclass(frozen=True, slots=True)
class Handled:
    """One package: where its answer is, or why it was refused."""

    package: Path
    answer: Path | None
    refused: NotCarried | None = None


def answer_all(
    handler: Handler,
    identity: Identity,
    me: MemberId,
    coordinators: tuple[PublicKey, ...],
    taken: Path,
    into: Path,
    *,
    most: int,
) -> tuple[Handled, ...]:
    """Answer every package in ``taken``, which may be one itself; the answers lie in ``into``.

    The last package of a run that is brought again gets the same answer. An older one is refused in this party's
    ledger, as any request is that comes out of turn.

    Args:
        handler: whoever answers.
        identity: whose packages the answers are.
        me: that party.
        coordinators: whose packages are taken in.
        taken: a package, or a folder of some.
        into: where the answers are laid.
        most: bytes that one request may have.

    Raises:
        OperatorFault: there is none, or ``into`` cannot be written.
    """
    found = (taken,) if (taken / courier_packages.MANIFEST).exists() else courier_packages.packages_in(taken)
    if not found:
        what = "no package here"
        raise OperatorFault(what, f"give the folder that the courier brought: to/{me} of the coordinator's", str(taken))
    known: Mapping[MemberId, tuple[PublicKey, ...]] = {COORDINATOR: coordinators}
    handled = list[Handled]()
    for package in found:
        try:
            manifest, request = courier_packages.read(package, Way.ASKED, me, known, most)
        except NotCarried as fault:
            handled.append(Handled(package, None, fault))
            continue
        answer = said(handler, request)
        try:
            place = courier_packages.write(into, identity, Way.ANSWERED, manifest.ticket, me, COORDINATOR, answer)
        except OSError as fault:
            raise OperatorFault(f"cannot be written: {fault.strerror}", "choose another --into", str(into)) from fault
        handled.append(Handled(package, place))
    return tuple(handled)
