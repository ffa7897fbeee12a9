"""Help is there at once: no command's needs anything heavy, and what is asked for is all that is read."""

from __future__ import annotations

import subprocess
import sys

HEAVY = (
    "torch", "transformers", "peft", "opacus", "numpy", "scipy", "matplotlib", "sqlalchemy", "alembic", "dp_accounting",
    "cryptography", "tenseal", "jinja2", "securefl.training", "securefl.home",
)  # fmt: skip

EVERY_HELP = """
import contextlib, io, sys
from typer.main import get_command
from securefl.cli import main

def paths(command, so_far=()):
    yield so_far
    for name, inner in getattr(command, "commands", {}).items():
        yield from paths(inner, (*so_far, name))

asked = list(paths(get_command(main.command_line())))
for path in asked:
    with contextlib.redirect_stdout(io.StringIO()) as told:
        try:
            main.main([*path, "--help"])
        except SystemExit as ended:
            assert ended.code == 0, path
    assert told.getvalue().startswith("Usage:"), path
print(len(asked), *sorted(set(sys.modules) & set(sys.argv[1:])))
"""

ONE_HELP = """
import sys
from securefl.cli import main
try:
    main.main(["policy", "check", "--help"])
finally:
    print(*sorted(name for name in sys.modules if name.startswith("securefl.cli.")), file=sys.stderr)
"""


def test_no_help_imports_what_trains_decides_or_stores() -> None:
    told = subprocess.run(
        [sys.executable, "-c", EVERY_HELP, *HEAVY], capture_output=True, text=True, check=True
    ).stdout.split()
    assert int(told[0]) > 50, "every command and every group was asked"
    assert told[1:] == []


def test_a_command_reads_its_own_part_of_the_command_line() -> None:
    ended = subprocess.run([sys.executable, "-c", ONE_HELP], capture_output=True, text=True, check=True)
    assert set(ended.stderr.split()) == {
        f"securefl.cli.{name}" for name in ("main", "faults", "installed", "options", "policy")
    }
