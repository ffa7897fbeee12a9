"""Tables in Parquet and Arrow files, alone or in a folder: read where they lie, and copied nowhere.

Their files say of each column what type it has. In a folder of others (.csv, .jsonl) a library would guess that from
all the rows: one row more, and others read otherwise. So such a file is named itself.

A folder that `save_to_disk` wrote says which files and splits it has. In any other a file belongs to the split that its
name or folder says, and to `train` where they say none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from securefl.documents.data_source import DataSource
from securefl.errors import Missing, OperatorFault
from securefl.training.foreign import others_code
from securefl.training.sources import PACKED, TABLES, TYPED

SPLITS: Final = {  # by what stands in a name
    "train": "train", "training": "train", "test": "test", "testing": "test", "eval": "validation",
    "evaluation": "validation", "dev": "validation", "val": "validation", "valid": "validation",
    "validation": "validation",
}  # fmt: skip
STATE, DICTIONARY = "state.json", "dataset_dict.json"  # of `save_to_disk`
INSTALL: Final = "pip install 'securefl-core[hub]', or name a CSV, TSV or JSON Lines file"

Line = tuple[str, Mapping[str, Any], Mapping[str, str]]  # place, columns, and of columns of classes what each is called


def read(found: Path, source: DataSource) -> Iterator[Line]:
    """The rows of a file, or of one split of a folder.

    Raises:
        OperatorFault: it cannot be read, has no such split, or has files that do not say what their columns are.
        Missing: the library for it is not installed.
    """
    for path in files(found, source.split) if found.is_dir() else (found,):
        yield from _rows(path)


def files(folder: Path, split: str) -> tuple[Path, ...]:
    """The files of one split of a folder, in the order of their names.

    Raises:
        OperatorFault: there is no such split, or the folder is none of tables that say what their columns are.
    """
    if (folder / DICTIONARY).is_file():
        known = _said(folder / DICTIONARY, "splits")
        if split not in known:
            raise _no_split(folder, split, known)
        return _saved(folder / split)
    if (folder / STATE).is_file():
        return _saved(folder)
    named: dict[str, list[Path]] = {}
    for path in _tables(folder):
        words = re.split(r"[^a-z0-9]+", str(path.relative_to(folder)).lower())
        own = split if split.lower() in words else next((SPLITS[word] for word in words if word in SPLITS), "train")
        named.setdefault(own, []).append(path)
    if split not in named:
        raise _no_split(folder, split, sorted(named))
    return tuple(named[split])


def _no_split(folder: Path, split: str, known: list[str]) -> OperatorFault:
    remedy = f"write one of {', '.join(known)}" if known else "put its Parquet files there"
    return OperatorFault(f"no split `{split}` of this data set", remedy, str(folder))


def _said(path: Path, name: str) -> list[Any]:
    try:
        found = json.loads(path.read_bytes())[name]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as fault:
        raise OperatorFault(f"does not say its `{name}`", "save the data set again", str(path)) from fault
    return list(found) if isinstance(found, list) else []


def _saved(folder: Path) -> tuple[Path, ...]:
    """The files of a data set that `save_to_disk` wrote."""
    names = [each.get("filename") for each in _said(folder / STATE, "_data_files") if isinstance(each, dict)]
    paths = tuple(folder / str(name) for name in names)
    absent = [path for path in paths if path.parent != folder or not path.is_file()]
    if absent or not paths:
        what = f"`{STATE}` names {absent[0].name if absent else 'no file'}, which is not in this folder"
        raise OperatorFault(what, "save the data set again", str(folder))
    return paths


def _tables(folder: Path) -> list[Path]:
    """Every table of a folder, if all of them say what their columns are.

    Raises:
        OperatorFault: some do not.
    """
    inside = [
        path for path in sorted(folder.rglob("*")) if not any(part[0] == "." for part in path.relative_to(folder).parts)
    ]
    typed = [path for path in inside if path.suffix.lower() in TYPED]
    named = [path for path in inside if _kind(path) in TABLES]
    others = named or [
        path for path in inside if _kind(path) in (".json", ".txt") and not typed
    ]  # else they describe it
    if others:
        kinds = f"save it as {' or '.join(TABLES)}, and name that"
        what = f"a folder of {_kind(others[0])} files: in these, what a value is depends on other rows"
        remedy = f"name the file itself: {named[0]}" if named else kinds
        raise OperatorFault(what, f"{remedy}; or save the folder's data as Parquet", str(folder))
    return typed


def _kind(path: Path) -> str:
    return Path(path.name.lower().removesuffix(PACKED)).suffix


def _rows(path: Path) -> Iterator[Line]:
    try:
        import pyarrow as pa  # noqa: PLC0415
        from pyarrow import ipc, parquet  # noqa: PLC0415
    except ImportError as fault:
        raise Missing(f"a {path.suffix} file needs the library `pyarrow`", INSTALL, str(path)) from fault
    with others_code("no table that can be read", "copy the file again, or save it again", str(path)):
        if path.suffix.lower() == ".parquet":
            table = parquet.ParquetFile(path)
            schema, batches = table.schema_arrow, table.iter_batches()
        else:
            table = _arrow(pa, ipc, path)
            schema, batches = table.schema, iter(table)
    names, called = schema.names, _classes(schema.metadata or {})
    if len(set(names)) != len(names):
        raise OperatorFault("a column name stands twice", "name each column once", str(path))
    number = 0
    while True:
        with others_code("no table that can be read", "copy the file again, or save it again", str(path)):
            batch = next(batches, None)
            if batch is None:
                return
            rows = batch.to_pylist()
        for row in rows:
            number += 1
            own = {column: of[row[column]] for column, of in called.items() if _is_class(row.get(column), of)}
            yield f"{path}, row {number}", row, own


def _arrow(pa: Any, ipc: Any, path: Path) -> Any:  # noqa: ANN401 - modules and readers of pyarrow
    """The batches of an Arrow file, in either of its two forms."""
    opened = pa.memory_map(str(path), "r")
    try:
        return ipc.open_stream(opened)
    except pa.ArrowInvalid:
        made = ipc.open_file(opened).read_all()
        return pa.RecordBatchReader.from_batches(made.schema, made.to_batches())


def _is_class(value: object, names: list[str]) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names)


def _classes(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Of columns of numbered classes, as `datasets` writes them down in a schema, what each class is called."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {
            column: list(map(str, each["names"]))
            for column, each in features.items()
            if isinstance(each, dict) and each.get("_type") == "ClassLabel" and isinstance(each.get("names"), list)
        }
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
