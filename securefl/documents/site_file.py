"""A SITE document: what one party owns, whom it trusts, and the most it lets a plan ask. Its party writes it alone.

Nothing in it is another party's but public keys, names and regions. Paths in it are relative to the file itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from securefl.documents import schemas, strict
from securefl.documents.site_parts import JoinedFile, SiteFile, TrustPart
from securefl.documents.site_problems import of_trust, problems
from securefl.documents.strict import Document, Path_
from securefl.errors import OperatorFault
from securefl.terms.names import TaskName, file_name

JOINED = "federations"  # folder of a home


@dataclass(frozen=True, slots=True)
class Site:
    """A SITE document and where it came from; or what it says of one federation, or of one task there."""

    file: SiteFile
    path: Path
    task: TaskName | None = None  # the one that all of it is about, where its federation has several

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

    @property
    def source(self) -> Path_:
        """Where `data` stands in the document."""
        return ("data",) if self.task is None else ("tasks", next(iter(self.file.federations)), self.task, "data")

    @property
    def views(self) -> tuple[Site, ...]:
        """What it says of each federation; of one with several tasks, of each task that this party takes part in.

        Every one of them is as a document of that federation, or task, alone: an agent answers for each.
        """
        return tuple(view for name in self.file.federations for view in self.views_of(name))

    def views_of(self, federation: str) -> Iterator[Site]:
        """Yield what it says of this federation, or of each task there."""
        file, trust = self.file, self.file.federations[federation]
        if not trust.tasks:
            yield replace(self, file=file.model_copy(update={"federations": {federation: trust}, "tasks": {}}))
        own = file.tasks.get(federation, {})
        for name in trust.tasks:
            if not file.is_custodian and name not in own:
                continue
            alone: dict[str, object] = {
                "federations": {federation: trust.of_task(name, trains=not file.is_custodian)},
                "tasks": {},
            }
            if not file.is_custodian:
                alone |= {"data": own[name].data, "without_records": own[name].without_records}
                alone |= {"dataset": own[name].dataset or file.dataset}
            yield replace(self, file=file.model_copy(update=alone), task=TaskName(name))

    def view(self, federation: str | None = None, task: str | None = None) -> Site:
        """What it says of the federation and task of these names, or of the only ones there are.

        Raises:
            OperatorFault: the document names no such, or several.
        """
        name, _ = self.trusted(federation)
        found = [each for each in self.views_of(name) if task in (None, each.task)]
        if len(found) != 1:
            known = [each.task for each in self.views_of(name) if each.task]
            what = f"no task {task}" if task else f"{len(known)} tasks, and none was chosen"
            remedy = (
                f"choose one of {', '.join(known)}" if known else "leave the task out, or write yours under `tasks`"
            )
            raise OperatorFault(what, remedy, f"{self.path}: tasks.{name}")
        return found[0]

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
    return home / JOINED / file_name(federation, ".yaml")


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
        f"{name}: {'.'.join(map(str, at[2:] if at[0] == 'federations' else at))}: {words}"
        for at, words in of_trust(file, part.federation, part)
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
        for place, words in problems(file)
    )
    if found:
        raise OperatorFault(found)
    return Site(file, path.resolve())


def schema_text() -> str:
    """The JSON Schema of SITE documents, for editors."""
    return schemas.schema_text(schemas.of(SiteFile))
