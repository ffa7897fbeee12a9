"""A SITE document: what one party owns, whom it trusts, and the most it lets a plan ask. Its party writes it alone.

Nothing in it is another party's but public keys, names and regions. Paths in it are relative to the file itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from securefl.documents import strict
from securefl.documents.data_source import DataSource
from securefl.documents.federation import Key, Name
from securefl.documents.patience import PatiencePart
from securefl.documents.protection import ProtectionPart
from securefl.documents.strategy import LossName, ProbePart, StrategyPart
from securefl.documents.strict import Document, First, Flag, Part, Path_, Rational, Whole, or_name
from securefl.documents.task import AdapterPart, TaskPart
from securefl.errors import OperatorFault
from securefl.terms.parties import COORDINATOR, CUSTODIAN
from securefl.terms.records import Record

SharingName = Literal["weights", "home", "pull", "attention"]
JOINED = "federations"  # folder of a home
MADE_BY = "`securefl keys show HOME/identity.key` prints it"


class ModelPart(Part):
    """The base model: what plans and policies call it, and where it is here."""

    model_config = ConfigDict(json_schema_extra=or_name)

    name: str = Field(min_length=1, description="what plans and policies call it")
    at: str | None = Field(
        None, min_length=1, description="a folder, a Hugging Face name, or distribution:NAME/PATH; else its name"
    )
    engine: Literal["auto", "fast", "opacus"] = Field("auto", description="how each record gets its gradient here")

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, raw: Any) -> Any:  # noqa: ANN401 - whatever the document holds
        return {"name": raw} if isinstance(raw, str) else raw


class AtMost(Part):
    """A whole number that a plan may not go above."""

    at_most: Whole = Field(ge=1)


class Between(Part):
    """Two numbers that a plan stays between, both included."""

    at_least: Rational | None = Field(None, gt=0)
    at_most: Rational | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _in_order(self) -> Between:
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least {self.at_least} is above at_most {self.at_most}: no number is between them")
        return self


class LimitsPart(Part):
    """The most a plan may ask of this site, whatever a policy allows; what is not given, the policy alone limits."""

    losses: tuple[LossName, ...] | None = Field(None, description="losses that may be trained")
    sharing: tuple[SharingName, ...] | None = Field(
        None, description="what a plan may ask beside one plain sum; []: nothing else"
    )
    learning_rate: Between | None = None
    micro_batch: AtMost | None = Field(None, description="records in memory at once")
    tokens: AtMost | None = Field(None, description="tokens in memory at once, padding included")
    memory: AtMost | None = Field(
        None, description="bytes beside the model: a gradient of each record in memory, and what an update takes"
    )
    patience: AtMost | None = Field(
        None,
        description="seconds that one round may take: a plan that waits longer is refused, and when they are over, "
        "counted here from its reservation, no step is trained and no question answered",
    )


class PeerPart(Part):
    """A member as its peers know it."""

    key: Key = Field(description=f"its public key; {MADE_BY}")
    region: str = Field(min_length=1)


class TrustPart(Part):
    """One federation that this site is in: who speaks there, under which keys, and what is trained."""

    coordinator: Key = Field(description=f"the coordinator's public key; {MADE_BY}")
    custodian: Key | None = Field(None, description="the custodian's public key, where updates are encrypted")
    members: dict[Name, PeerPart] = Field(min_length=2, description="every member, this site among them")
    task: TaskPart | None = Field(None, description="what the adapter is for: labels in the head's order")
    adapter: AdapterPart | None = Field(None, description="what is trained on the model")
    max_tokens: Whole | None = Field(None, ge=4, le=8192, description="how much of a record its plans read")
    probe: tuple[ProbePart, ...] = Field((), max_length=256, description="public labelled text for weights by probe")
    protection: ProtectionPart | None = Field(None, description="of a custodian: what it opens")

    def probe_records(self) -> tuple[Record, ...]:
        """The probe, with the task's labels by number."""
        labels = self.task.labels if self.task else ()
        return tuple(Record(each.text, labels.index(each.label)) for each in self.probe)


class JoinedFile(TrustPart):
    """A federation that `securefl site join` joined: a document of its own, in the site's home."""

    securefl_joined: First
    federation: Name


class ChildPart(Part):
    """One party of a sub-federation: its key comes with its answer, unless it is written here."""

    model_config = ConfigDict(json_schema_extra=or_name)

    key: Key | None = Field(None, description=f"its public key, if it is known without an answer; {MADE_BY}")
    region: str | None = Field(None, min_length=1, description="of a member: where it stands; else as it answers")
    socket: str | None = Field(None, min_length=1, description="where it answers; else as `site serve --member` says")

    @model_validator(mode="before")
    @classmethod
    def _key_alone(cls, raw: Any) -> Any:  # noqa: ANN401 - whatever the document holds
        return {"key": raw} if isinstance(raw, str) else raw


class SubfederationPart(Part):
    """The federation that this site runs itself, in place of records: its members' sums are its training."""

    name: Name = Field(description="as its own policy says")
    home: str = Field(description="its coordinator's home")
    policy: str | None = Field(None, description="its own policy's file, under that of the federation above")
    rounds: Whole = Field(1, ge=1, description="its own rounds for each one of the federation above")
    custodian: ChildPart | None = Field(None, description="its custodian, or that one's key: of encrypted updates")
    members: dict[Name, ChildPart] = Field(min_length=2, description="whom it invites")
    protection: ProtectionPart
    patience: PatiencePart | None = Field(
        None, description="how long its members are waited for; else what the federation above leaves it"
    )
    strategy: StrategyPart = Field(default_factory=lambda: StrategyPart.model_validate({}))

    @property
    def parties(self) -> dict[str, ChildPart]:
        """Everybody who is invited, by name."""
        return {**self.members, **({CUSTODIAN: self.custodian} if self.custodian else {})}


class SiteFile(Part):
    """One party's own document, as it is written down."""

    securefl_site: First
    name: Name = Field(description="this party's name; `custodian` holds a decryption key, and has no records")
    region: str | None = Field(None, min_length=1, description="where it stands")
    home: str = Field("home", min_length=1, description="folder of its key, ledger and account; made if missing")
    store: str | None = Field(
        None, description="a PostgreSQL database for its ledger, as postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
    )
    model: ModelPart | None = None
    dataset: str | None = Field(None, min_length=1, description="the account its budget is kept under; else its name")
    data: DataSource | None = Field(None, description="its records")
    subfederation: SubfederationPart | None = Field(None, description="in place of records: its own members")
    without_records: Flag = Field(False, description="it takes part with noise alone, to hide who owns records")
    limits: LimitsPart = Field(default_factory=lambda: LimitsPart.model_validate({}))
    federations: dict[Name, TrustPart] = Field(default_factory=dict, description="by the name that its policy says")

    @property
    def is_custodian(self) -> bool:
        """Whether this party holds a decryption key, and no records."""
        return self.name == CUSTODIAN


@dataclass(frozen=True, slots=True)
class Site:
    """A SITE document and where it came from."""

    file: SiteFile
    path: Path

    @property
    def folder(self) -> Path:
        """What the document's paths are relative to."""
        return self.path.parent

    @property
    def home(self) -> Path:
        """The folder of this party's key, ledger and account."""
        return self.folder / Path(self.file.home).expanduser()

    @property
    def account(self) -> str:
        """The name its budget is kept under."""
        return "" if self.file.is_custodian else self.file.dataset or self.file.name

    def trusted(self, federation: str | None) -> tuple[str, TrustPart]:
        """The federation of this name, or the only one there is.

        Raises:
            OperatorFault: the document does not name it, or names several.
        """
        known = self.file.federations
        if federation is None and len(known) == 1:
            return next(iter(known.items()))
        if federation is None or federation not in known:
            what = f"no federation {federation}" if federation else f"{len(known)} federations, and none was chosen"
            remedy = f"choose one of {', '.join(known)}" if known else "write whom this site trusts under `federations`"
            raise OperatorFault(what, remedy, f"{self.path}: federations")
        return federation, known[federation]


def load(path: Path) -> Site:
    """The SITE document at ``path``.

    Raises:
        OperatorFault: anything in it is not as it must be, with file, line, field and what would do.
    """
    return _with_joined(of(strict.read(path), path))


def joined_at(home: Path, federation: str) -> Path:
    """Return where a home has a federation that this party joined by signed documents."""
    return home / JOINED / f"{federation}.yaml"


def _with_joined(site: Site) -> Site:
    """The same, with the federations that were joined by signed documents.

    Raises:
        OperatorFault: one of them is not as it must be, or stands in the SITE document, too.
    """
    found: dict[str, TrustPart] = {}
    for path in sorted((site.home / JOINED).glob("*.yaml")):
        document = strict.read(path)
        part = strict.validate(document, JoinedFile)
        if part.federation in site.file.federations:
            what = f"{part.federation} stands under `federations`, and was joined: {path}"
            raise OperatorFault(what, "keep one: remove its lines here, or that file", f"{site.path}: federations")
        if path != joined_at(site.home, part.federation):
            raise OperatorFault(f"{part.federation} under another name", "join it again", str(path))
        check_joined(site.file, part, str(path))
        found[part.federation] = part
    file = site.file.model_copy(update={"federations": {**site.file.federations, **found}})
    return Site(file, site.path)


def check_joined(file: SiteFile, part: JoinedFile, name: str) -> None:
    """Check that a federation that was joined fits this party; ``name`` is what an error calls its document.

    Raises:
        OperatorFault: it does not.
    """
    found = tuple(
        f"{name}: {'.'.join(map(str, at[2:]))}: {words}" for at, words in _of_trust(file, part.federation, part)
    )
    if found:
        raise OperatorFault(found)


def of(document: Document, path: Path) -> Site:
    """The SITE document in ``document``; paths in it are relative to ``path``.

    Raises:
        OperatorFault: as for ``load``.
    """
    if isinstance(document.value, dict) and not document.has("securefl_site"):
        others = sorted(key for key in document.value if str(key).startswith("securefl_"))
        what = f"this document says {others[0]}, not securefl_site" if others else "no `securefl_site` in it"
        raise OperatorFault(what, "give a SITE document: its first line is `securefl_site: 1`", document.name)
    file = strict.validate(document, SiteFile)
    found = tuple(
        f"{document.name}:{document.line_of(place)}: {'.'.join(map(str, place))}: {words}"
        for place, words in _problems(file)
    )
    if found:
        raise OperatorFault(found)
    return Site(file, path.resolve())


def schema_text() -> str:
    """The JSON Schema of SITE documents, for editors."""
    return json.dumps(SiteFile.model_json_schema(), indent=2) + "\n"


def _problems(file: SiteFile) -> Iterator[tuple[Path_, str]]:
    """Yield where the document contradicts itself, and what would do."""
    if file.name == COORDINATOR:
        yield ("name",), f"found {file.name!r}; a coordinator has no SITE document: give the site a name of its own"
        return
    yield from _of_its_role(file)
    for name, trust in file.federations.items():
        yield from _of_trust(file, name, trust)
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
    yield from ((place, f"{what}: {remedy}") for what, remedy in inside.strategy.not_below(labels))


def _of_trust(file: SiteFile, name: str, trust: TrustPart) -> Iterator[tuple[Path_, str]]:
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
