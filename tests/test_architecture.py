"""The tree keeps its shape: imports run one way, public things say what they are, claims name tests that exist."""

from __future__ import annotations

import ast
import os
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


def test_the_machines_are_imported_where_there_is_nothing_to_compute_or_store_with() -> None:
    """What the contract leaves to type checkers is not imported when the machines run."""
    script = """
import sys
absent = {"numpy", "torch", "tenseal", "sqlalchemy", "dp_accounting", "pydantic"}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
files = {"securefl.files", "securefl.key_files", "securefl.protection.key_file"}
print(sorted(files & set(sys.modules)))
"""
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "securefl" / "protocol").glob("*.py")
    ]
    done = subprocess.run([sys.executable, "-c", script, *names], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


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
        if path.parent.name not in ("securefl", "terms"):  # the nouns are had from one place
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
        if name in {"LICENSE", "tests/test_architecture.py"} or name.endswith((".lock", ".png", ".svg")):
            continue
        for number, line in enumerate((ROOT / name).read_text(errors="replace").splitlines(), start=1):
            if pattern.search(line):
                found.append(f"{name}:{number}")
    assert found == []


def calls(tree: ast.AST, name: str) -> list[str]:
    """The functions, dotted, in which a function or class of this name is called or handed on."""
    found = []

    def walk(node: ast.AST, inside: tuple[str, ...]) -> None:
        given = [node.func, *node.args, *(each.value for each in node.keywords)] if isinstance(node, ast.Call) else []
        if (isinstance(node, ast.Attribute) and node.attr == name) or any(
            isinstance(each, ast.Name) and each.id == name for each in given
        ):
            found.append(".".join(inside))
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, ast.FunctionDef | ast.ClassDef)
            walk(child, (*inside, child.name) if named else inside)

    walk(tree, ())
    return found


def test_repeatable_randomness_is_used_on_synthetic_text_and_in_open_training_alone() -> None:
    used = {
        str(path.relative_to(ROOT)): calls(ast.parse(path.read_text()), "repeatable")
        for path in SOURCES
        if "repeatable" in path.read_text()
    }
    assert {name: sorted(places) for name, places in used.items() if places} == {
        "securefl/training/preflight.py": ["_moves", "_off_zero"],
        "securefl/training/shared_model.py": ["SharedModel.train_without_privacy"],
    }


def test_no_document_command_or_environment_can_choose_the_randomness() -> None:
    import inspect

    from typer.main import get_command

    from securefl.cli import main as cli
    from securefl.documents.coordinator_file import CoordinatorFile
    from securefl.documents.federation import FederationFile
    from securefl.documents.site_parts import SiteFile
    from securefl.policy.document import PolicyDocument
    from securefl.policy.plan_document import PlanDocument
    from securefl.simulation import federation

    words = re.compile(r"entropy|rand|repeat|seed|deterministic")
    for document in (FederationFile, PolicyDocument, PlanDocument, SiteFile, CoordinatorFile):
        schema = document.model_json_schema()
        fields = {
            f"{part}.{name}"
            for part, of in {"": schema, **schema["$defs"]}.items()
            for name in of.get("properties", {})
        }
        assert {name for name in fields if words.search(name)} <= {"AdapterPart.seed", "Partition.seed"}, (
            "A and the parts of one file, which are public, and nothing else"
        )

    def options(command) -> set[str]:
        inner = getattr(command, "commands", {}).values()
        return {option for each in command.params for option in each.opts} | {
            o for each in inner for o in options(each)
        }

    assert not [option for option in options(get_command(cli.command_line())) if words.search(option)]
    assert "entropy" not in inspect.getsource(cli)
    assert inspect.signature(federation.run).parameters["entropy"].default is os.urandom
    for path in (*(ROOT / "securefl" / "training").glob("*.py"), *(ROOT / "securefl" / "simulation").glob("*.py")):
        assert not re.search(r"environ|getenv", path.read_text()), path


def rows() -> list[list[str]]:
    lines = [line for line in (ROOT / "audits" / "claims.md").read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:] if not line.startswith("| ---")]


def test_every_claim_names_a_module_and_a_test_that_exist() -> None:
    assert len(rows()) >= 10
    for row in rows():
        for module in re.findall(r"`([a-z_/]+\.py)`", row[2]):
            assert any((place / module).exists() for place in (ROOT / "securefl", ROOT)), module
        tests = re.findall(r"`(test_[a-z_]+\.py)::(test_\w+)`", row[3])
        assert tests, row
        for file, name in tests:
            (found,) = (ROOT / "tests").rglob(file)
            assert f"def {name}(" in found.read_text(), f"{file}::{name}"


def test_every_row_of_the_first_hour_names_tests_that_exist_or_says_that_it_is_open() -> None:
    page = (ROOT / "audits" / "first_hour.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("| ") and " --- " not in line]
    told = [line for line in lines if not line.startswith(("| row |", "| case |"))]
    assert len(told) > 40
    for line in told:
        file, shown = "", line.rpartition(" | ")[2] if not line.endswith(" |") else line.split(" | ")[-1]
        assert re.search(r"`test_\w+\.py|open|as S1", shown), line
        for named, test in re.findall(r"`(test_\w+\.py)?(?:::(test_\w+))?`", shown):
            file = named or file
            if named or test:
                (found,) = (ROOT / "tests").rglob(file)
                assert not test or f"def {test}(" in found.read_text(), line


def test_the_readmes_commands_exist() -> None:
    from typer.main import get_command

    from securefl.cli import main as cli

    command = get_command(cli.command_line())
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


def test_bytes_become_values_behind_one_door() -> None:
    """The library that reads any CBOR reads what was looked through first; others are given no bytes to read."""
    used = {str(path.relative_to(ROOT)): path.read_text() for path in SOURCES if "cbor2" in path.read_text()}
    assert set(used) == {"securefl/cbor.py", "securefl/wire.py"}
    assert [name for name, text in used.items() if calls(ast.parse(text), "loads")] == ["securefl/cbor.py"]
    assert calls(ast.parse(used["securefl/cbor.py"]), "loads") == ["load"]
    assert not [
        text for text in used.values() if re.search(r"CBORDecoder|cbor2\.load\b|from cbor2 import .*load", text)
    ]
    other = re.compile(
        r"^\s*(import|from) (pickle|marshal|shelve|dill|joblib|xml|plistlib)\b|yaml\.(unsafe_|full_)?load", re.MULTILINE
    )
    assert not [str(path) for path in SOURCES if other.search(path.read_text())]


def test_a_command_prints_nothing_that_moves_its_readers_cursor() -> None:
    """Whatever a command prints went through `on_screen` or `in_json`, or is the schema that stands in this package."""
    found = []
    for path in (ROOT / "securefl" / "cli").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"print", "typer.echo", "echo", "secho"}:
                parts = [each for each in ast.walk(node.args[0]) if isinstance(each, ast.Call)] if node.args else []
                if not parts or ast.unparse(parts[0].func) not in {"on_screen", "in_json", "schema_text"}:
                    found.append(f"{path.name}:{node.lineno}")
            if isinstance(node, ast.Attribute) and ast.unparse(node) in {"sys.stdout.write", "sys.stderr.write"}:
                found.append(f"{path.name}:{node.lineno}")
    assert found == []


def test_a_text_is_written_and_read_as_utf_8_whatever_this_machine_speaks() -> None:
    """Without its name the encoding is the machine's: a file would be another one elsewhere, or no file at all."""
    found = []
    for path in (*SOURCES, *sorted((ROOT / "securefl_carriers").rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            named = any(each.arg == "encoding" for each in node.keywords)
            if node.func.attr in {"read_text", "write_text"} and not named:
                found.append(f"{path.name}:{node.lineno}")
    assert found == []


def test_standard_error_has_one_door_behind_which_nothing_fails_or_waits() -> None:
    """Whoever operates a process is told by `tell`; a command that ends says why; nothing else writes there."""
    found = set[str]()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in {"sys.stderr", "sys.__stderr__"}:
                found.add(str(path.relative_to(ROOT)))
            if isinstance(node, ast.ImportFrom) and node.module == "sys":
                found |= {str(path) for each in node.names if "std" in each.name}
            if isinstance(node, ast.keyword) and node.arg in {"stderr", "err"}:
                found |= {str(path.relative_to(ROOT))} - {"securefl/kits/flare_provision.py"}
    doors = {"securefl/telling.py", "securefl/standard_error.py"}
    assert found == {*doors, "securefl/cli/options.py", "securefl/cli/publishing.py"}


def test_whatever_shows_progress_owns_standard_error_before() -> None:
    """A library writes there by itself while a site trains, and so does a panic: a command that lasts has it drained."""
    owning, showing = {"owned", "published"}, {"progress", "tally"}
    for path in (ROOT / "securefl" / "cli").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.With):
                first, *names = [getattr(getattr(part.context_expr, "func", None), "id", "") for part in node.items]
                assert first not in showing, f"{path.name}:{node.lineno}"
                assert first in owning or not showing & set(names), f"{path.name}:{node.lineno}"
