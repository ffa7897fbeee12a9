"""Hold a SITE document against what is here: home, key, policies, model, records. Nothing is made or changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from securefl import files, keys
from securefl.documents.site_file import Site, TrustPart
from securefl.errors import Fault
from securefl.home import adoption
from securefl.home.peers import pinned
from securefl.ledger.databases import URL_FILE, place_of
from securefl.site import charged_records
from securefl.site.build import check_own_key, clock, limits_of, model_of, records_of
from securefl.training.sources import resolve

OK, MISSING, WRONG = "ok", "missing", "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: ok, missing (it may still come), or wrong."""

    what: str
    status: str
    detail: str
    remedy: str = ""


def examine(site: Site, *, load: bool = False) -> tuple[Finding, ...]:
    """Everything that a run would trip over; ``load`` loads the model and reads the records, too."""
    return tuple(_examined(site, load=load))


def _examined(site: Site, *, load: bool) -> Iterator[Finding]:
    yield _tried("home", lambda: _home(site))
    yield _tried("store", lambda: _store(site))
    if not site.file.federations:
        yield Finding("federations", MISSING, "none: it answers nobody", "write whom this site trusts")
    for name, trust in site.file.federations.items():
        yield _tried(f"federations.{name}", lambda n=name, t=trust: _trusted(site, n, t))  # type: ignore[misc]
        yield _tried(f"policy of {name}", lambda n=name: _policy(site, n))  # type: ignore[misc]
    model, data = site.file.model, site.file.data
    if model is not None:
        yield _tried("model", lambda: _found("model", site, model.at or model.name))
    if data is not None:
        yield _tried("data", lambda: _found("data", site, data.file))
    for name, trust in site.file.federations.items() if load and not site.file.is_custodian else ():
        yield _tried(f"records in {name}", lambda n=name, t=trust: _records(site, n, t))  # type: ignore[misc]


def _tried(what: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except Fault as fault:
        told, remedy = str(fault), getattr(fault, "remedy", "")
        return Finding(what, WRONG, told.removesuffix(f"; {remedy}"), remedy)


def _home(site: Site) -> Finding:
    files.check(site.home)
    place = site.home / "identity.key"
    if not place.exists():
        return Finding("home", MISSING, str(site.home), "it is made when the site first starts")
    return Finding("home", OK, f"{site.home}, key {keys.load(place).public.hex()}")


def _store(site: Site) -> Finding:
    if site.file.store is not None:
        files.check(site.path)  # a URL may hold a password
        if not (site.home / URL_FILE).exists() and not (site.home / "ledger.db").exists():
            return Finding("store", MISSING, "the database of `store`", "it is used when the site first starts")
    return Finding("store", OK, str(place_of(site.home, site.file.name)))


def _trusted(site: Site, name: str, trust: TrustPart) -> Finding:
    place, known = site.home / "identity.key", pinned(site.home, name)
    if place.exists():
        check_own_key(site, name, trust, keys.load(place).public)
    pins: dict[str, str] = json.loads(known.read_text()) if known.exists() else {}
    named = {"coordinator": trust.coordinator, **({"custodian": trust.custodian} if trust.custodian else {})}
    named |= {member: each.key for member, each in trust.members.items()}
    for party, key in named.items():
        if pins.get(party, key) != key:
            detail = f"{party} has the key {key[:16]}... here, and showed {pins[party][:16]}... to this home before"
            return Finding(f"federations.{name}", WRONG, detail, f"find out which is right; {known} holds the other")
    return Finding(f"federations.{name}", OK, f"{len(trust.members)} members, coordinator {trust.coordinator[:16]}...")


def _policy(site: Site, name: str) -> Finding:
    if not adoption.staged_at(site.home, name).exists():
        return Finding(f"policy of {name}", MISSING, "none is laid out in this home", "agree on one, and lay it out")
    policy, signed = adoption.staged(site.home, name, clock())
    by = "signed" if signed else "UNSIGNED"
    return Finding(f"policy of {name}", OK, f"version {policy.version}, hash {policy.hash.hex()[:16]}, {by}")


def _found(what: str, site: Site, name: str) -> Finding:
    return Finding(what, OK, str(resolve(name, site.folder)))


def _records(site: Site, name: str, trust: TrustPart) -> Finding:
    shared = model_of(site, name)
    records = records_of(site, trust)
    forms = charged_records.forms_of(shared, records, limits_of(site, trust).reads)
    charged_records.check(site.home, site.account, forms)
    detail = f"{len(records.train)} to train on, {len(records.heldout)} held out, on the account {site.account!r}"
    return Finding(f"records in {name}", OK, detail)
