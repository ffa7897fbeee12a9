"""Hold a SITE document against what is here: home, key, policies, model, records. Nothing is made or changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from securefl import files, key_files
from securefl.coordinator import inviting
from securefl.documents.federation import FederationFile
from securefl.documents.finding import MISSING, OK, WARNING, WRONG, Finding, tried
from securefl.documents.site_file import Site
from securefl.documents.site_parts import TrustPart
from securefl.errors import OperatorFault
from securefl.home import adoption, ageing, identity
from securefl.home.clock import clock
from securefl.ledger import anchor
from securefl.ledger.databases import LOCAL, URL_FILE, place_of, server_of
from securefl.planning.plan import scheme_under
from securefl.policy import load as policies
from securefl.protection import schemes
from securefl.site import charged_records, custody, labels, node, shown_keys
from securefl.site.build import limits_of, model_of, opened, records_of
from securefl.terms import MemberId
from securefl.terms.parties import CUSTODIAN
from securefl.training.sources import resolve

__all__ = ["MISSING", "OK", "WARNING", "WRONG", "Finding", "examine"]

AGES: Final = "keys in "  # what a finding is about that only time decides


def examine(site: Site, *, load: bool = False, federation: FederationFile | None = None) -> tuple[Finding, ...]:
    """Everything that a run would trip over.

    Args:
        site: the document.
        load: whether to load the model and read the records, too.
        federation: a live federation's document that this one is to fit.
    """
    against = () if federation is None else (_agrees(site, federation),)
    return (*_examined(site, load=load), *against)


def _examined(site: Site, *, load: bool) -> Iterator[Finding]:
    yield tried("home", lambda: _home(site))
    yield tried("store", lambda: _store(site))
    if not site.file.federations:
        yield Finding("federations", MISSING, "none: it answers nobody", "write whom this site trusts")
    for name, trust in site.file.federations.items():
        yield from _in_federation(site, name, trust)
    inside = site.file.subfederation
    if inside is not None:
        yield tried(f"policy of {inside.name}", lambda: _policy_below(node.of(site)))
        yield tried(f"parties of {inside.name}", lambda: _parties(node.of(site)))
        if anchor.read(node.of(site).home) is not None:
            yield tried(f"keys in {inside.name}", lambda: _keys_below(node.of(site)))
    model, data = site.file.model, site.file.data
    if model is not None:
        yield tried("model", lambda: _found("model", site, model.at or model.name))
    if data is not None:
        yield tried("data", lambda: _found("data", site, data.file))
    if not load or site.file.is_custodian:
        return
    for view in site.views:
        yield tried(f"records in {_called(view)}", lambda v=view: _records(v))  # type: ignore[misc]
    if len({view.account for view in site.views}) > 1:
        yield tried("accounts", lambda: _apart(site))


def _in_federation(site: Site, name: str, trust: TrustPart) -> Iterator[Finding]:
    yield tried(f"federations.{name}", lambda: _trusted(site, name, trust))
    yield tried(f"policy of {name}", lambda: _policy(site.home, name))
    if adoption.staged_at(site.home, name).exists():
        for view in site.views_of(name):
            if view.file.data is not None:
                yield tried(f"labels in {_called(view)}", lambda v=view: _labels(v))  # type: ignore[misc]
        if site.file.is_custodian:
            yield tried(f"key in {name}", lambda: _key(site, name, trust))
    for view in site.views_of(name):
        ((_, part),) = view.file.federations.items()
        if part.adapter is not None:
            yield from (Finding(f"adapter in {_called(view)}", WARNING, told) for told in part.adapter.rule.warnings)
        if view.task and view.file.data is not None:
            yield tried(f"data of {_called(view)}", lambda v=view: _found(f"data of {_called(v)}", v, v.file.data.file))  # type: ignore[misc]
    if not site.file.is_custodian:
        yield from _left_out(site, name, trust)
    if identity.is_made(site.home) and anchor.read(site.home) is not None:  # a ledger, so keys are known
        yield tried(f"{AGES}{name}", lambda: _keys(site, name))


def _called(view: Site) -> str:
    """What a part of a document is about, as a person reads it."""
    name = next(iter(view.file.federations))
    return f"{name}, task {view.task}" if view.task else name


def _left_out(site: Site, name: str, trust: TrustPart) -> Iterator[Finding]:
    """Yield the tasks that ask for this site and stand nowhere in its document: it answers nothing about them."""
    for task, part in trust.tasks.items():
        if site.file.name in part.members and task not in site.file.tasks.get(name, {}):
            what = "this site is asked to take part, and names no records for it"
            yield Finding(f"task {task} of {name}", MISSING, what, f"write its `data` under `tasks.{name}.{task}`")


def _home(site: Site) -> Finding:
    if site.file.subfederation is not None and (below := node.of(site).home).resolve() == site.home.resolve():
        what = f"{site.file.name} and the coordinator of {site.file.subfederation.name} would share a home"
        raise OperatorFault(what, "write another folder under `subfederation.home`", str(below))
    return identity.found(site.home, "it is made when the site first starts")


def _parties(own: node.Node) -> Finding:
    """Return whether everybody whom a sub-federation invites has a key here."""
    what, names = f"parties of {own.file.name}", list(own.file.parties)
    shown_keys.check_below(own)
    if identity.is_made(own.home):
        names = list(inviting.known(own, inviting.opened(own)).missing)
    elif all(each.key and (each.region or name == CUSTODIAN) for name, each in own.file.parties.items()):
        names = []
    if names:
        return Finding(what, MISSING, f"{', '.join(names)}: no answer is admitted, and no key is written", node.NEXT)
    return Finding(what, OK, f"{len(own.file.parties)} parties, each with a key")


def _store(site: Site) -> Finding:
    if site.file.store is not None:
        files.check(site.path)  # a URL may hold a password
        if not (site.home / URL_FILE).exists() and not (site.home / LOCAL).exists():
            return Finding("store", MISSING, "the database of `store`", "it is used when the site first starts")
    server = server_of(site.home)
    if server is None:
        return Finding("store", OK, str(site.home / LOCAL))
    if not identity.is_made(site.home):  # the schema is named after the home's key
        return Finding("store", OK, server.render_as_string())
    own = key_files.load(identity.place(site.home))
    return Finding("store", OK, str(place_of(site.home, site.file.name, own)))


def _trusted(site: Site, name: str, trust: TrustPart) -> Finding:
    shown_keys.check_trusted(site, name, trust)
    return Finding(f"federations.{name}", OK, f"{len(trust.members)} members, coordinator {trust.coordinator[:16]}...")


def _labels(view: Site) -> Finding:
    policy = policies.load(adoption.staged_at(view.home, next(iter(view.file.federations))))
    return Finding(f"labels in {_called(view)}", OK, labels.check(view, policy))


def _key(site: Site, name: str, trust: TrustPart) -> Finding:
    """Return whether a custodian's key, if it was split, bears the policy that is laid out and the roster."""
    what = f"key in {name}"
    assert trust.protection is not None, "a custodian's document says what it opens"
    policy = policies.load(adoption.staged_at(site.home, name))
    file = site.home / schemes.key_name(scheme_under(trust.protection, policy))
    members = [MemberId(each) for each in trust.members]
    custody.check_split(file, members, max(policy.protection.colluding, trust.protection.colluding or 0))
    custody.check_one(file)
    threshold = custody.threshold_of(file)
    if threshold is not None:
        return Finding(what, OK, f"split: {threshold} of {len(members)} members' shares give it")
    return Finding(what, OK, f"whole, in {file}" if file.exists() else "it is made when the site first starts")


def _agrees(site: Site, federation: FederationFile) -> Finding:
    """Return whether this party trusts in a live federation whom, and trains there what, that one's document says."""
    what, trust = f"against {federation.name}", site.file.federations.get(federation.name)
    if not federation.is_live:
        remedy = "give the one whose members have a `key`"
        return Finding(what, WRONG, "a simulation's document, which names no keys", remedy)
    if trust is None:
        return Finding(what, WRONG, f"this site is in no federation {federation.name}", "write it under `federations`")
    said: dict[str, tuple[object, object]] = {
        "coordinator": (trust.coordinator, federation.coordinator or trust.coordinator),
        "custodian": (trust.custodian, federation.custodian),
        **_members(trust, federation),
    }
    if not site.file.is_custodian and not trust.tasks:
        said["task"], said["adapter"] = (trust.task, federation.task), (trust.adapter, federation.adapter)
        said["max_tokens"] = (trust.max_tokens, federation.training.max_tokens)
        said["probe"] = (trust.probe, federation.strategy.probe)
    other = [name for name, (mine, theirs) in said.items() if mine != theirs]
    if other:
        detail = f"{', '.join(other)}: not what the federation's document says"
        return Finding(what, WRONG, detail, "ask its people which is right, by another way than its document")
    return Finding(what, OK, f"{len(said)} fields agree")


def _members(trust: TrustPart, federation: FederationFile) -> dict[str, tuple[object, object]]:
    mine = {name: (each.key, each.region) for name, each in trust.members.items()}
    theirs = {each.name: (each.key, each.region) for each in federation.members}
    return {f"members.{name}": (mine.get(name), theirs.get(name)) for name in sorted(mine.keys() | theirs.keys())}


def _policy(home: Path, name: str) -> Finding:
    if not adoption.staged_at(home, name).exists():
        return Finding(f"policy of {name}", MISSING, "none is laid out in this home", "agree on one, and lay it out")
    policy, signed = adoption.staged(home, name, clock())
    told = f"version {policy.version}, hash {policy.hash.hex()[:16]}"
    if not signed:
        what = f"{told}, UNSIGNED: every ledger and report will say so"
        return Finding(f"policy of {name}", WARNING, what, "have it signed: `securefl policy sign`")
    return Finding(f"policy of {name}", OK, f"{told}, signed")


def _keys(site: Site, name: str) -> Finding:
    home = opened(site)
    try:
        return ageing.found(home, name, ageing.most_s(home, name))
    finally:
        home.engine.dispose()


def _keys_below(own: node.Node) -> Finding:
    """Return how old the keys are that a sub-federation's coordinator asks."""
    home = inviting.opened(own)
    try:
        return ageing.found(home, own.file.name, ageing.most_s(home, own.file.name))
    finally:
        home.engine.dispose()


def _policy_below(own: node.Node) -> Finding:
    """Return whether the sub-federation's policy stands under each one that this site agreed to above."""
    found = _policy(own.home, own.file.name)
    if found.status != MISSING:
        policy, _ = adoption.staged(own.home, own.file.name, clock())
        node.check_under(own.site, policy, str(adoption.staged_at(own.home, own.file.name)))
        node.check_quorum(own, policy)
    return found


def _found(what: str, site: Site, name: str) -> Finding:
    return Finding(what, OK, str(resolve(name, site.folder)))


def _apart(site: Site) -> Finding:
    """Return whether the accounts of this site's tasks hold no record twice."""
    parts = [
        charged_records.OnAccount(_called(view), view.account, records_of(view, trust).forms)
        for view in site.views
        for trust in view.file.federations.values()
    ]
    charged_records.check_apart(parts, f"{site.path}: tasks")
    return Finding("accounts", OK, f"{len({each.account for each in parts})}, and no record is on two")


def _records(site: Site) -> Finding:
    ((federation, trust),) = site.file.federations.items()
    shared, name = model_of(site, federation), _called(site)
    if site.file.data is None:
        whose = "its members'" if site.file.subfederation else "none: it takes part with noise alone"
        return Finding(f"records in {name}", OK, whose)
    records = records_of(site, trust)
    forms = charged_records.forms_of(shared, records, limits_of(site, trust).reads)
    charged_records.check(site.home, site.account, forms)
    if site.file.data.heldout and not records.heldout:
        what = f"none of {len(records.train)} rows is held out at heldout={site.file.data.heldout:g}"
        remedy = "raise `heldout`, or give more rows"
        return Finding(f"records in {name}", WARNING, f"{what}, so its accuracy says nothing", remedy)
    detail = f"{records.counts}, on the account {site.account}"
    taken = shared.bytes_kept(records.train, limits_of(site, trust).reads)
    if taken:
        room = site.file.limits.kept.at_most
        detail += f"; what is frozen for them takes {taken:,} bytes, and `limits.kept` gives it {room:,}"
    return Finding(f"records in {name}", OK, detail)
