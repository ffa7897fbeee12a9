"""One site in several federations: which of its agents a request is for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from securefl import wire
from securefl.documents.site_file import Site
from securefl.errors import Forged, OperatorFault, Unsafe
from securefl.protection import key_shares
from securefl.protocol import messages as m
from securefl.runtime.sockets import Sockets
from securefl.site import charged_records, custody, key_share, start_checks
from securefl.site.agent import Agent, MemberAgent
from securefl.site.build import Environment, build, models_of
from securefl.site.run_keys import is_from_coordinator
from securefl.terms import MemberId, PublicKey


class Dispatcher:
    """Hands each request to the agent whose coordinator signed it; of several of one coordinator's, to its run's.

    A federation with several tasks has an agent here for each task that this site takes part in.

    A request that no coordinator of this site signed opens no store and is written down nowhere.
    """

    def __init__(self, agents: Sequence[Agent]) -> None:
        names = [_place_of(each) for each in agents]
        assert len(set(names)) == len(names), "one agent for each federation, or task of one"
        self._agents = tuple(agents)

    def handle(self, data: bytes) -> bytes | m.InProgress:
        """Answer one request, by the agent it is for.

        Raises:
            PeerFault: no agent of this site takes it, or the one it is for refuses it.
        """
        asked: m.Frame | key_shares.Request = wire.decode(data, m.Frame | key_shares.Request)
        return self._share(data) if isinstance(asked, key_shares.Request) else self._asked(asked).handle(data)

    def progress(self, data: bytes) -> m.InProgress:
        """Say how far the run of this request is.

        Raises:
            PeerFault: no agent of this site takes the request.
        """
        return self._asked(wire.decode(data, m.Frame)).progress(data)

    def leave(self) -> None:
        """End trainings after the step that they are in; their reservations stand."""
        for each in self._agents:
            each.leave()

    @property
    def idle(self) -> bool:
        """Whether no request is worked on."""
        return all(each.idle for each in self._agents)

    @property
    def coordinators(self) -> tuple[PublicKey, ...]:
        """Every key of every coordinator of this site, handed over or not: what each says is judged by its own key."""
        own = ((each.home, each.charter) for each in self._agents)
        return tuple(key for home, charter in own for key in home.line(charter.federation, charter.coordinator.key))

    @property
    def most_request(self) -> int:
        """Bytes that one request may have, for whichever agent it is."""
        return max((each.most_request for each in self._agents), default=wire.LIMIT_BYTES)

    def _share(self, request: bytes) -> bytes:
        """This site's share of a decryption key, for the custodian of one of its federations.

        Raises:
            Forged: no custodian of this site asks, or none by a key that counts; or it was revoked in any federation.
        """
        lines = []
        for agent in self._agents:
            charter, home = agent.charter, agent.home
            if charter.custodian is not None and home.identity.under(charter.custodian.key) is None:
                lines.append(home.key_line(charter.federation, charter.custodian, charter.policy_text))
        return key_share.answer(self._agents[0].home, lines, request)

    def _asked(self, frame: m.Frame) -> Agent:
        mine = [each for each in self._agents if is_from_coordinator(frame, each.charter, each.home)]
        if not mine:
            raise Forged("a request of nobody whom this site answers")
        if len(mine) > 1:
            place = _place(frame, mine)
            mine = [each for each in mine if _place_of(each) == place]
        if not mine:
            raise Unsafe("a run of no federation or task that this site is in", "protocol.another-federation")
        return mine[0]


def built(site: Site, around: Environment) -> Dispatcher:
    """Build this site's agents, one for each federation or task in its document; say what its operator should know.

    Raises:
        OperatorFault: the document names none, one cannot be built, or something that a run would trip over is wrong.
    """
    if not site.file.federations:
        remedy = "write whom this site trusts under `federations`"
        raise OperatorFault("a site that is in no federation", remedy, f"{site.path}: federations")
    start_checks.check(site, around.progress)
    views = site.views
    if not views:
        remedy = "write those that this site takes part in, and on which records, under `tasks`"
        raise OperatorFault("a site that takes part in no task", remedy, f"{site.path}: tasks")
    models = models_of(views)
    agents = [
        build(view, around=replace(around, model=model or around.model))
        for view, model in zip(views, models, strict=True)
    ]
    if len(agents) > 1:
        charged_records.check_apart(_charged(agents), f"{site.path}: tasks")
    return Dispatcher(agents)


def _charged(agents: Sequence[Agent]) -> Iterator[charged_records.OnAccount]:
    """What each of a site's agents trains on, and on which account."""
    for each in agents:
        trainer = each.trainer if isinstance(each, MemberAgent) else None
        if isinstance(trainer, charged_records.ChargedTrainer):
            charter = each.charter
            yield charged_records.OnAccount(charter.task or charter.federation, trainer.account, trainer.forms)


def way_to_members(site: Site, doors: Sequence[str]) -> Sockets | None:
    """Read the sockets that a site has to ask, by its document or given as NAME=SOCKET; None for a site with records.

    Of a sub-federation these are its own parties; of a custodian whose key was split, the members who hold shares.

    Raises:
        OperatorFault: one is missing, or none of the sub-federation's.
    """
    inside = site.file.subfederation
    written = {} if inside is None else {name: each.socket for name, each in inside.parties.items()}
    wanted = set(written)
    if site.file.is_custodian and custody.is_split(site.home):
        wanted = {name for trust in site.file.federations.values() for name in trust.members}
    found = {name: path for name, _, path in (each.partition("=") for each in doors)}
    known = {name: site.folder / Path(path).expanduser() for name, path in written.items() if path}
    known |= {name: Path(path) for name, path in found.items() if path}
    strange, missing = (
        sorted(set(found) - wanted),
        sorted({*(wanted - set(known)), *(name for name, path in found.items() if not path)}),
    )
    if strange or len(found) < len(doors):
        what = (
            f"{', '.join(strange) or 'a party given twice'}, where {', '.join(sorted(wanted)) or 'nobody'} may be given"
        )
        raise OperatorFault(what, "give each party once, as NAME=SOCKET", "--member")
    if missing:
        remedy = " ".join(f"--member {name}=SOCKET" for name in missing)
        raise OperatorFault(f"no way to {', '.join(missing)}", f"add {remedy}", str(site.path))
    return Sockets({MemberId(name): path.absolute() for name, path in known.items()}) if wanted else None


Place = tuple[str, str | None]  # a federation, and a task of it


def _place_of(agent: Agent) -> Place:
    return agent.charter.federation, agent.charter.task


def _place(frame: m.Frame, agents: Sequence[Agent]) -> Place:
    """Find the federation and task that the request's run is of: by its invitation, or by what was written down."""
    run = frame.envelope.receipt.run
    if frame.envelope.receipt.kind == m.Invite.__name__:
        invite = m.opened(frame.envelope, m.Invite)
        assert isinstance(invite, m.Invite)
        return invite.session.federation, invite.session.task
    for agent in agents:
        with agent.home.transaction() as conn:
            for _, opened in agent.home.opened(conn):
                if opened.run == run:
                    return opened.federation, opened.task
    return "", None
