"""Write a first federation from data files: its file, its policy with cases, a SITE document for each party, schemas.

What is chosen follows from what is here: labels from the label column, layers from the model, how much of a text is
read from how long texts are. No home is made and no key drawn.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING, Any, Final

from securefl.documents import emit, federation_file, first_documents, site_file, strict
from securefl.documents.data_source import DataSource
from securefl.documents.first_documents import First
from securefl.errors import OperatorFault
from securefl.home.clock import clock
from securefl.policy import load as policies
from securefl.site import init as site_init
from securefl.terms import Adapter, Task
from securefl.terms.names import NAME_FORM
from securefl.training import data, rows, values
from securefl.training.sources import resolve

if TYPE_CHECKING:
    from securefl.training.shared_model import SharedModel

MOST_LABELS: Final = 64  # more different values are texts or numbers, not labels
LAYERS: Final = (  # what a model's attention calls the layers that are adapted first
    ("query", "value"), ("q_proj", "v_proj"), ("q_lin", "v_lin"), ("query_key_value",), ("c_attn",), ("Wqkv",),
    ("q", "v"),
)  # fmt: skip
LENGTHS: Final = (16, 32, 64, 128, 256)  # tokens that are read: the first that is enough for nearly all
ENOUGH: Final = Fraction(19, 20)
SCHEMAS: Final = "schemas"
PARTIES: Final = "parties"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person says of a federation that is to be."""

    data: tuple[Path, ...]  # one file for each member, or one that all of them share in parts
    text: str
    label: str
    model: str
    members: tuple[str, ...]  # by name; from the files' names if none
    epsilon: Fraction
    name: str
    purpose: str = "research"
    region: str = "here"
    targets: tuple[str, ...] = ()


def init(folder: Path, asked: Asked, schemas: Mapping[str, str]) -> tuple[Path, ...]:
    """Write everything into ``folder``; nothing that is there is written over.

    Args:
        folder: where.
        asked: what a person says.
        schemas: for editors, of each kind of document.

    Returns:
        the files that were written, the federation's first.

    Raises:
        OperatorFault: something asked for is unusable, or would be written over. Nothing was written.
    """
    if folder.exists() and not folder.is_dir():
        raise OperatorFault("this is a file", "name a folder", str(folder))
    texts = _texts(folder, _first(folder, asked)) | {
        f"{SCHEMAS}/{kind}.schema.json": text for kind, text in schemas.items()
    }
    there = [name for name in texts if (folder / name).exists()]
    if there:
        what = f"{', '.join(there[:3])}{' and others' if len(there) > 3 else ''} would be written over"
        raise OperatorFault(what, "choose another folder, or move them away", str(folder))
    for name, text in texts.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    return tuple(folder / name for name in texts)


def _first(folder: Path, asked: Asked) -> First:
    """All that is known of the federation, from its data and its model."""
    name = _name(asked.name or folder.resolve().name, "--name")
    members = _members(asked)
    if len(members) < first_documents.FEWEST:
        few = first_documents.FEWEST
        what = f"{len(members)} members: of a sum over fewer than {few} each could know another's update"
        raise OperatorFault(what, "give a --data file for each member, or one file and a --member for each", "init")
    if asked.text == asked.label:
        raise OperatorFault(f"text and label are both the column `{asked.text}`", "give --text and --label", "init")
    labels, has_unlabelled = _labels(asked)
    model, shared_data = _located(asked.model, folder), {"text": asked.text, "label": asked.label}
    if has_unlabelled:
        shared_data["unlabelled"] = "drop"
    files = [_located(str(path), folder) for path in asked.data]
    in_parts: dict[str, Any] = {"file": files[0], **shared_data, "partition": {"dirichlet": 1, "seed": 1}}
    each = dict(zip(members, ({"file": file} for file in files), strict=True)) if len(files) > 1 else {}
    own: Mapping[str, Any] = each or {member: {} for member in members}
    counts, records = list[int](), list[Any]()
    for number, member in enumerate(members):
        part = {"members": len(members), "index": number, "dirichlet": 1, "seed": 1}
        told = {**shared_data, **own[member]} if each else {**in_parts, "partition": part}
        found = data.load(DataSource.model_validate(told), folder, labels)
        counts.append(len(found.train))
        records += found.train
    adapter, trained = _adapter(folder, model, labels, asked)
    return First(
        name, asked.purpose, asked.region, model, adapter, labels, shared_data if each else in_parts, own,
        median_low(counts), max(counts), _length(trained, tuple(records)), asked.epsilon,
        datetime.fromtimestamp(clock(), UTC).year,
    )  # fmt: skip


def _texts(folder: Path, first: First) -> dict[str, str]:
    """Every file's text, by its name; each document was read as a run reads it.

    Raises:
        OperatorFault: one would not be well formed.
    """
    texts = {
        "federation.yaml": first_documents.federation(first),
        "policy.yaml": first_documents.policy(first),
        "policy.cases.yaml": first_documents.cases(first),
    }
    federation = folder / "federation.yaml"
    federation_file.of(strict.parse(texts["federation.yaml"].encode(), str(federation)), federation)
    policies.parse(texts["policy.yaml"].encode(), str(folder / "policy.yaml"))
    for name in first.members if "partition" not in first.shared else ():  # parts of one file are an experiment's
        path = f"{PARTIES}/{name}/{site_init.NAME}"
        texts[path] = first_documents.line("site").format(to="../../") + _site(folder, folder / path, name, first)
        site_file.of(strict.parse(texts[path].encode(), str(folder / path)), folder / path)
    return texts


def _site(folder: Path, path: Path, name: str, first: First) -> str:
    """What a member's SITE document says once it has a machine of its own."""
    source = {**first.shared, **first.members[name]}
    at, file = (_from(folder, each, path.parent) for each in (first.model, str(source["file"])))
    member = site_init.Member(name, first.region, first.model, at, file, source["text"], source["label"])
    text, column = member.document(), f"  label: {emit.scalar(source['label'])}"
    if "unlabelled" in source:
        text = text.replace(column, f"  unlabelled: {source['unlabelled']}\n{column}", 1)
    return text


def _from(folder: Path, name: str, other: Path) -> str:
    """The same model or file, as it is called in another folder."""
    found = resolve(name, folder)
    return name if isinstance(found, str) or name.startswith("distribution:") else _relative(found, other)


def _located(name: str, folder: Path) -> str:
    """A model or data file as a document in ``folder`` calls it: a path that was given is relative to where we are."""
    found = resolve(name, Path.cwd())
    return name if isinstance(found, str) or name.startswith("distribution:") else _relative(found, folder)


def _relative(path: Path, folder: Path) -> str:
    relative = os.path.relpath(path, folder.resolve())
    return relative if relative.startswith("..") else f"./{relative}"


def _members(asked: Asked) -> tuple[str, ...]:
    names = asked.members or tuple(re.sub(r"\..*", "", path.name) for path in asked.data)
    if len(asked.data) > 1 and len(names) != len(asked.data):
        what = f"{len(asked.data)} data files and {len(names)} members"
        raise OperatorFault(what, "give a --member for each --data, in order, or none", "init")
    found = tuple(_name(each, "--member") for each in names)
    twice = next((each for each in found if found.count(each) > 1), None)
    if twice is not None:
        raise OperatorFault(f"two members are called {twice}", "name each with --member", "init")
    return found


def _name(raw: str, option: str) -> str:
    name = re.sub(r"[^a-z0-9._-]+", "-", raw.lower()).strip("._-")[:63]
    if not re.fullmatch(NAME_FORM, name):
        raise OperatorFault(f"no name can be made of {raw!r}", f"give {option}: small letters and digits", "init")
    return name


def _labels(asked: Asked) -> tuple[tuple[str, ...], bool]:
    """The labels of all files, in order, and whether some row has none."""
    found, unlabelled = set[str](), False
    for path in asked.data:
        place = resolve(str(path), Path.cwd())
        source = DataSource.model_validate({"file": str(path), "text": asked.text, "label": asked.label})
        for value in _column(rows.read(place, source), asked, str(path)):
            unlabelled |= not value
            found |= {value} if value else set()
            if len(found) > MOST_LABELS:
                what = f"the column `{asked.label}` has more than {MOST_LABELS} different values: it is no label"
                raise OperatorFault(what, "give the label's column with --label", str(path))
    if len(found) < 2:
        raise OperatorFault(f"the column `{asked.label}` has one value", "give the label's column with --label", "init")
    return tuple(sorted(found)), unlabelled


def _column(table: Iterator[rows.Row], asked: Asked, place: str) -> Iterator[str]:
    for row in table:
        for name in (asked.text, asked.label):
            if name not in row.columns:
                known = ", ".join(sorted(map(str, row.columns)))
                raise OperatorFault(f"no column `{name}`", f"the columns are {known}: give --text and --label", place)
        value = row.columns[asked.label]
        if values.is_missing(value):
            yield ""
        else:
            yield (row.called.get(asked.label) or values.written(value, asked.label, row.place)).strip()


def _adapter(folder: Path, model: str, labels: tuple[str, ...], asked: Asked) -> tuple[dict[str, Any], SharedModel]:
    """What is trained on this model, found by trying: LoRA on its attention; a head alone if nothing is known there."""
    from securefl.training.shared_model import SharedModel  # noqa: PLC0415

    task, first = Task("classification", labels), None
    for targets in (asked.targets,) if asked.targets else LAYERS:
        try:
            found = SharedModel.load(model, folder, task, Adapter(targets, 8, 16, 0))
            found.preflight()
        except OperatorFault as fault:
            first = first or fault
            continue
        return {"targets": list(targets), "rank": 8, "alpha": 16}, found
    assert first is not None, "some layers were tried"
    if asked.targets:
        raise first
    raise OperatorFault(f"none of the layers that are tried is in {model}: {first}", "name some with --target", "init")


def _length(shared: SharedModel, records: tuple[Any, ...]) -> int:
    """The first of ``LENGTHS`` that reads nearly every record whole, and that the model takes."""
    taken = [each for each in LENGTHS if _reads(shared, each)] or [LENGTHS[0]]
    return next((each for each in taken if shared.longer(records, each) <= len(records) * (1 - ENOUGH)), taken[-1])


def _reads(shared: SharedModel, tokens: int) -> bool:
    try:
        shared.check_reads(tokens, "init")
    except OperatorFault:
        return False
    return True
