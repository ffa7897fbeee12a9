"""Where a SITE document contradicts itself, and what would do: found before anything that it names is opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from securefl.documents.compatibility import misfits
from securefl.documents.offer import WHOLE
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
    yield from _of_tasks(place, trust)
    yield from _of_custodian(place, trust) if file.is_custodian else _of_member(place, file, trust)
    if not file.is_custodian:
        yield from _of_own_tasks(file, name, trust)


def _of_tasks(place: Path_, trust: TrustPart) -> Iterator[tuple[Path_, str]]:
    """Yield where the tasks of a federation are none: of strangers, or beside what is trained without them."""
    for name in (*WHOLE, "probe") if trust.tasks else ():
        if getattr(trust, name):
            yield (*place, name), "beside `tasks`: each has its own, leave this one out"
    for name, part in trust.tasks.items():
        here: Path_ = (*place, "tasks", name)
        for member in part.members:
            if member not in trust.members or part.members.count(member) > 1:
                what = f"{member} stands twice" if member in trust.members else f"{member} is no member here"
                yield (*here, "members"), f"{what}; name some of {', '.join(trust.members)}, each once"
        strange = [each.label for each in part.probe if each.label not in part.task.labels]
        if strange:
            yield (*here, "probe"), f"found the label {strange[0]!r}; write one of the task's labels"
        if part.task.kind == "language":
            yield (*here, "task"), "a language model among tasks: it has a federation of its own"
        plain = StrategyPart.model_validate({})
        yield from ((here, f"{what}: {remedy}") for what, remedy in misfits(part.task, part.adapter, plain))


def _of_own_tasks(file: SiteFile, name: str, trust: TrustPart) -> Iterator[tuple[Path_, str]]:
    """Yield where a site names tasks that the federation does not have, or in which it has no part."""
    if trust.tasks and file.subfederation is not None:
        yield ("subfederation",), f"{name} has tasks, and a site that is a federation takes part in none of them"
    for task in file.tasks.get(name, {}):
        place: Path_ = ("tasks", name, task)
        if not trust.tasks:
            yield ("tasks", name), f"{name} has no tasks: leave it out, and write `data`"
            return
        if task not in trust.tasks:
            yield place, f"no task of {name} is called {task}; there are {', '.join(trust.tasks)}"
        elif file.name not in trust.tasks[task].members:
            members = ", ".join(trust.tasks[task].members)
            yield place, f"{file.name} takes no part in it, but {members}; leave it out, or have its coordinator ask"


def _of_its_role(file: SiteFile) -> Iterator[tuple[Path_, str]]:
    sources = {"data": file.data is not None, "subfederation": file.subfederation is not None}
    sources["without_records"] = file.without_records
    given = [name for name, is_there in sources.items() if is_there]
    if file.is_custodian:
        absent = [each for each in ("model", "dataset", "region") if getattr(file, each) is not None]
        for name in (*given, *absent, *(["tasks"] if file.tasks else [])):
            yield (name,), f"a custodian has no `{name}`: leave it out"
        return
    if len(given) > 1:
        yield (given[-1],), f"beside `{given[0]}`; a site trains one of them: leave the other out"
    if not given and not file.tasks:
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
    if not trust.tasks and file.tasks and file.data is None and not file.without_records:
        yield ("data",), f"missing, and {place[1]} has no tasks; add `data`"
    for name in () if trust.tasks else WHOLE:
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
    for name in WHOLE:
        if getattr(trust, name) is not None:
            yield (*place, name), f"a custodian trains nothing: leave `{name}` out"


def _custodian_of(scheme: str, custodian: ChildPart | None) -> str:
    if custodian is None:
        return f"missing; add the key of the custodian that protection {scheme} has, or its `socket` to invite it"
    return f"found one; protection {scheme} has no custodian: leave it out"
