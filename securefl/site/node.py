"""A site that is a federation coordinates its own members: it invites them, admits them and hands out their roster.

Its SITE document names them under ``subfederation``. The coordinator that signs is the sub-federation's, with a home
and key of its own beside the site's. What is trained is what the federation above trains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from securefl.coordinator import inviting
from securefl.documents.offer import Offer
from securefl.documents.site_file import Site
from securefl.documents.site_parts import ChildPart, SubfederationPart
from securefl.errors import OperatorFault
from securefl.home import adoption
from securefl.home.clock import clock
from securefl.home.introduced import Introduced
from securefl.planning import patience
from securefl.planning.plan import cover_under
from securefl.planning.subfederation import check_policy
from securefl.policy import load as policies

if TYPE_CHECKING:
    from securefl.documents.introduction import Authentic, Invitation
    from securefl.home.home import Home
    from securefl.policy.load import Policy

NEXT = "invite them (`securefl site invite SITE`), and take in their answers (`securefl site join SITE ANSWER`)"


@dataclass(frozen=True, slots=True)
class NodeFile:
    """What a SITE document says of the federation that its site is, as a COORDINATOR document would."""

    site: Site
    inside: SubfederationPart

    @property
    def name(self) -> str:
        """The sub-federation's, as its policy says."""
        return self.inside.name

    @property
    def parties(self) -> Mapping[str, ChildPart]:
        """Everybody who is invited, by name."""
        return self.inside.parties

    @property
    def members(self) -> Mapping[str, ChildPart]:
        """Its members, by name."""
        return self.inside.members

    @property
    def offer(self) -> Offer:
        """What its invitation says is trained: what the federation above trains.

        Raises:
            OperatorFault: this site is in no federation yet, or in several.
        """
        _, trust = self.site.trusted(None)
        assert trust.task is not None, "a member's document says what is trained"
        assert trust.adapter is not None, "and on which parts"
        assert trust.max_tokens is not None, "and how much is read"
        assert self.site.file.model is not None, "and has a model"
        return Offer(
            securefl_offer=1, model=self.site.file.model.name, task=trust.task, adapter=trust.adapter,
            max_tokens=trust.max_tokens, probe=self.inside.strategy.probe, protection=self.inside.protection,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Node:
    """A site that is a federation, as the coordinator of its own members."""

    site: Site
    file: NodeFile

    @property
    def path(self) -> Path:
        """The SITE document."""
        return self.site.path

    @property
    def home(self) -> Path:
        """The folder of its coordinator's key and ledger."""
        return self.site.folder / Path(self.file.inside.home).expanduser()

    @property
    def policy(self) -> Path:
        """The sub-federation's policy.

        Raises:
            OperatorFault: the document names none.
        """
        if self.file.inside.policy is None:
            what = f"no policy of {self.file.name} is named"
            raise OperatorFault(what, "write its file under `policy`", f"{self.path}: subfederation")
        return self.site.folder / Path(self.file.inside.policy).expanduser()


def of(site: Site) -> Node:
    """The node that a site is.

    Raises:
        OperatorFault: it has records, and no members of its own.
    """
    inside = site.file.subfederation
    if inside is None:
        what = f"{site.file.name} has no `subfederation`, so nobody to invite"
        raise OperatorFault(
            what, "give a COORDINATOR document, or the SITE document of a sub-federation", str(site.path)
        )
    return Node(site, NodeFile(site, inside))


def invite(
    node: Node, days: int, *, unsafe_unsigned: bool = False, now: Callable[[], int] = clock
) -> Authentic[Invitation]:
    """The invitation to the sub-federation, under its policy, which stands under the one that this site agreed to.

    Raises:
        Unapproved: the policy lacks signatures.
        Loosens: it allows what the one above forbids.
        OperatorFault: this site is in no federation above, or as for ``inviting.invite``.
    """
    _ = node.file.offer
    check_under(node.site, policies.load(node.policy), str(node.policy))
    return inviting.invite(node, days, unsafe_unsigned=unsafe_unsigned, now=now)


def adopt(node: Node, path: Path, *, unsafe_unsigned: bool = False, now: Callable[[], int] = clock) -> Policy:
    """Lay out a later version of the sub-federation's policy for the next run of its coordinator.

    Raises:
        Unapproved, Loosens, OperatorFault: as for ``invite``; or it is no later version.
    """
    policy = policies.load(path)
    check_under(node.site, policy, str(path))
    signatures = adoption.found_signatures(path, policy, now(), unsafe_unsigned=unsafe_unsigned)
    adoption.propose(inviting.opened(node, now), policy, signatures)
    return policy


def check_under(site: Site, policy: Policy, place: str) -> None:
    """Check that a sub-federation's policy stands under each one that this site agreed to above.

    Raises:
        Loosens: it allows what one of them forbids.
        OperatorFault: it names another, or none.
    """
    for federation in site.file.federations:
        above = adoption.staged_at(site.home, federation)
        if above.exists():
            check_policy(policies.load(above), policy, place)


def check_quorum(node: Node, policy: Policy) -> None:
    """Check that the quorum its document asks for, if any, opens a sum of the sub-federation and can be reached.

    Raises:
        OperatorFault: it does not; with all numbers.
    """
    inside = node.file.inside
    if inside.patience is not None:
        cover = cover_under(inside.protection, len(inside.members), policy, None)
        place = f"{node.path}: subfederation.patience.quorum"
        patience.check_quorum(inside.patience.patience(), cover, len(inside.members), place)


def everybody(node: Node, home: Home) -> Introduced:
    """Everybody in the sub-federation, by the document or by the answers that its coordinator admitted.

    Raises:
        OperatorFault: somebody's key is not known.
    """
    known = inviting.known(node, home)
    if known.everybody is None:
        raise OperatorFault(f"no key of {', '.join(known.missing)} is known", NEXT, f"{node.path}: subfederation")
    return known.everybody
