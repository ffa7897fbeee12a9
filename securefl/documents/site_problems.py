"""Where a SITE document contradicts itself, and what would do: found before anything that it names is opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from securefl.documents.fitting import misfits
from securefl.documents.site_parts import MADE_BY, ChildPart, PeerPart, SiteFile, SubfederationPart, TrustPart
from securefl.documents.strategy import StrategyPart
from securefl.documents.strict import Path_
from securefl.terms.parties import COORDINATOR, CUSTODIAN


def problems(file: SiteFile) -> Iterator[tuple[Path_, str]]:
    """Yield where the document contradicts itself, and what would do."""
    if file.name == COORDINATOR:
        yield ("name",), f"found {file.name!r}; a coordinator has no SITE document: give the site a name of its own"
        return
    yield from _of_its_role(file)
    for name, trust in file.federations.items():
        yield from of_trust(file, name, trust)
    if file.subfederation is not None:
        inside = file.subfederation
        custodian = inside.custodian
        yield from _keys_apart(("subfederation",), {"custodian": custodian.key if custodian else None}, inside.members)
        if inside.protection.scheme.has_custodian != (custodian is not None):
            yield ("subfederation", "custodian"), _custodian_of(inside.protection.scheme.value, custodian)
        if custodian is not None and custodian.region is not None:
            yield ("subfederation", "custodian", "region"), "a custodian has no region: leave it out"
        yield from _strategy_below(file, inside)
        if inside.name in file.federations:
            what = f"found {inside.name}; it is a federation of its own: not one this site is in"
            yield ("subfederation", "name"), what


def _strategy_below(file: SiteFile, inside: SubfederationPart) -> Iterator[tuple[Path_, str]]:
    """Yield what a sub-federation's rounds, each a run of its own, cannot have: as in a tree's one document."""
    place, labels = ("subfederation", "strategy"), tuple(each.label for each in inside.strategy.probe)
    tasks = [each.task for each in file.federations.values() if each.task]
    if any(label not in task.labels for task in tasks for label in labels):
        yield (*place, "probe"), "found a label that is none of the task's; write one of those"
    found = [*inside.strategy.not_below(labels)]
    for trust in file.federations.values():
        if trust.task is not None and trust.adapter is not None:
            found += misfits(trust.task, trust.adapter, inside.strategy)
            found += trust.adapter.rule_below()
    yield from ((place, f"{what}: {remedy}") for what, remedy in dict.fromkeys(found))


def of_trust(file: SiteFile, name: str, trust: TrustPart) -> Iterator[tuple[Path_, str]]:
    """Yield where one federation in the document does not fit its party."""
    place: Path_ = ("federations", name)
    yield from _keys_apart(place, {"coordinator": trust.coordinator, "custodian": trust.custodian}, trust.members)
    strange = [each.label for each in trust.probe if trust.task is None or each.label not in trust.task.labels]
    if strange:
        yield (*place, "probe"), f"found the label {strange[0]!r}; write one of the task's labels"
    yield from _of_custodian(place, trust) if file.is_custodian else _of_member(place, file, trust)


def _of_its_role(file: SiteFile) -> Iterator[tuple[Path_, str]]:
    sources = {"data": file.data is not None, "subfederation": file.subfederation is not None}
    sources["without_records"] = file.without_records
    given = [name for name, is_there in sources.items() if is_there]
    if file.is_custodian:
        for name in (*given, *(each for each in ("model", "dataset", "region") if getattr(file, each) is not None)):
            yield (name,), f"a custodian has no `{name}`: leave it out"
        return
    if len(given) > 1:
        yield (given[-1],), f"beside `{given[0]}`; a site trains one of them: leave the other out"
    if not given:
        yield ("data",), "missing; add `data`, or `subfederation` for a site that is a federation"
    for name in ("region", "model"):
        if getattr(file, name) is None:
            yield (name,), f"missing; add `{name}`"


def _keys_apart(
    place: Path_, roles: Mapping[str, str | None], members: Mapping[str, PeerPart | ChildPart]
) -> Iterator[tuple[Path_, str]]:
    """Each party of a federation is one key's, and no key is two parties'."""
    seen: dict[str, str] = {}
    named = [((*place, role), role, key) for role, key in roles.items() if key is not None]
    named += [((*place, "members", name, "key"), name, each.key) for name, each in members.items() if each.key]
    for where, name, key in named:
        other = seen.setdefault(key, name)
        if other != name:
            yield where, f"found the key {key[:16]}..., which is {other}'s; write {name}'s own: {MADE_BY}"
    for name in (COORDINATOR, CUSTODIAN):
        if name in members:
            yield (*place, "members", name), f"no member can be called {name}: write it under `{name}`"


def _of_member(place: Path_, file: SiteFile, trust: TrustPart) -> Iterator[tuple[Path_, str]]:
    me = trust.members.get(file.name)
    if me is None:
        known = ", ".join(trust.members)
        yield (*place, "members"), f"{file.name} is not among {known}; add it, with its own key and region"
    elif file.region is not None and me.region != file.region:
        yield (
            (*place, "members", file.name, "region"),
            f"found {me.region!r}; `region` above says {file.region!r}: write one",
        )
    for name in ("task", "adapter", "max_tokens"):
        if getattr(trust, name) is None:
            yield (*place, name), f"missing; add `{name}`, as the federation's document has it"
    if trust.task is not None and trust.adapter is not None:
        plain = StrategyPart.model_validate({})
        yield from ((place, f"{what}: {remedy}") for what, remedy in misfits(trust.task, trust.adapter, plain))
    if trust.protection is not None:
        yield (*place, "protection"), "of a custodian alone: leave it out, plans say how updates are hidden"


def _of_custodian(place: Path_, trust: TrustPart) -> Iterator[tuple[Path_, str]]:
    if trust.custodian is None:
        yield (*place, "custodian"), f"missing; add `custodian`, this party's own key: {MADE_BY}"
    if trust.protection is None:
        yield (*place, "protection"), "missing; add `protection`, such as ckks"
    elif not trust.protection.scheme.has_custodian:
        yield (
            (*place, "protection"),
            f"found {trust.protection.scheme.value}; it has no custodian: write ckks or bfv",
        )
    for name in ("task", "adapter", "max_tokens"):
        if getattr(trust, name) is not None:
            yield (*place, name), f"a custodian trains nothing: leave `{name}` out"


def _custodian_of(scheme: str, custodian: ChildPart | None) -> str:
    if custodian is None:
        return f"missing; add the key of the custodian that protection {scheme} has, or its `socket` to invite it"
    return f"found one; protection {scheme} has no custodian: leave it out"
