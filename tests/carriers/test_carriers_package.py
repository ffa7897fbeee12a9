"""`securefl-carriers` is installed where the product is not: it needs the standard library and, for one engine, that engine."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

from securefl import __version__

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "securefl_carriers").rglob("*.py"))
# A folder may import one engine, and what that engine itself stands on.
ENGINES = {"flare": {"nvflare", "cryptography"}, "flower": {"flwr", "httpx", "starlette", "uvicorn", "cryptography"}}
PRODUCTS = {"cryptography"}  # what the product stands on too


def imported(path: Path) -> set[str]:
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, path
            found.add(str(node.module).partition(".")[0])
    return found


def test_nothing_is_imported_but_the_standard_library_and_one_engine() -> None:
    assert SOURCES
    for path in SOURCES:
        engine = ENGINES.get(path.relative_to(ROOT).parts[1], set())
        assert imported(path) - set(sys.stdlib_module_names) <= {"securefl_carriers"} | engine, path


def test_the_product_imports_no_carrier() -> None:
    for path in (ROOT / "securefl").rglob("*.py"):
        assert not {"securefl_carriers", *set[str]().union(*ENGINES.values())} & imported(path) - PRODUCTS, path


def test_every_public_thing_says_what_it_is() -> None:
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), (path, node.name)


def test_its_version_is_the_products() -> None:
    project = tomllib.loads((ROOT / "distributions" / "carriers" / "pyproject.toml").read_text())["project"]
    assert (project["name"], project["version"]) == ("securefl-carriers", __version__)
    assert project.get("dependencies", []) == []
