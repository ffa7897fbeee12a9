"""The tree keeps its shape: imports run one way, public things say what they are, claims name tests that exist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "securefl").rglob("*.py"))


def test_imports_run_one_way() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_public_thing_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a module without a docstring"
    missing = []

    def walk(node: ast.AST, inside_function: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef):
                if not child.name.startswith("_") and not inside_function and not ast.get_docstring(child):
                    missing.append(child.name)
                walk(child, inside_function or isinstance(child, ast.FunctionDef))

    walk(tree, False)
    assert missing == []


def test_a_package_is_one_sentence() -> None:
    for path in (ROOT / "securefl").rglob("__init__.py"):
        if path.parent.name != "securefl":
            tree = ast.parse(path.read_text())
            assert len(tree.body) == 1, path
            assert "\n" not in (ast.get_docstring(tree) or "\n"), path


def test_nothing_names_a_machine_or_a_registry() -> None:
    pattern = re.compile(
        r"/work/|/tmp/|/root/|/home/|pypi\.org|files\.pythonhosted|https?://(?!www\.apache\.org|json-schema\.org|127\.0\.0\.1)"
    )
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    found = []
    for name in tracked:
        if name in {"LICENSE", "tests/test_architecture.py"} or name.endswith((".lock", ".png")):
            continue
        for number, line in enumerate((ROOT / name).read_text(errors="replace").splitlines(), start=1):
            if pattern.search(line):
                found.append(f"{name}:{number}")
    assert found == []


def rows() -> list[list[str]]:
    lines = [line for line in (ROOT / "audits" / "claims.md").read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:] if not line.startswith("| ---")]


def test_every_claim_names_a_module_and_a_test_that_exist() -> None:
    assert len(rows()) >= 10
    for row in rows():
        for module in re.findall(r"`([a-z_/]+\.py)`", row[2]):
            assert (ROOT / "securefl" / module).exists(), module
        tests = re.findall(r"`(test_[a-z_]+\.py)::(test_\w+)`", row[3])
        assert tests, row
        for file, name in tests:
            assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"{file}::{name}"


def test_the_readmes_commands_exist() -> None:
    from typer.main import get_command

    from securefl import cli

    command = get_command(cli.app)
    told = re.findall(r"^securefl ((?:[a-z]+ ?)+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert told
    for line in told:
        first, *rest = line.split()
        assert first in command.commands, line
        inner = getattr(command.commands[first], "commands", None)
        if inner and rest:
            assert rest[0] in inner, line


def test_the_reports_schema_is_the_committed_one() -> None:
    import json

    from securefl.audit.report import SCHEMA, schema

    assert json.loads(SCHEMA.read_text()) == schema()
