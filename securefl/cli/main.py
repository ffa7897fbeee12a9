"""The command line: one door for people and scripts. Heavy parts are imported by the command that needs them.

Exit codes: 0 done; 2 bad input or usage; 3 refused by policy or budget; 4 verification failed; 5 a peer or the
transport failed; 70 a bug of ours; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Annotated, Any, Final

import typer

from securefl import __version__
from securefl.cli.faults import Unspoken, ending
from securefl.cli.options import say
from securefl.shown import in_json, on_screen

# Each word that may come first, and where it is: `module:name` in this folder. Only what is asked for is imported.
COMMANDS: Final = {
    "init": "init:init",
    "check": "check:check",
    "run": "train:run",
    "coordinate": "coordinator:coordinate",
    "predict": "use:predict",
    "evaluate": "use:evaluate",
    "compare": "train:compare",
    "report": "look:report",
    "explain": "look:explain",
    "doctor": "look:doctor",
    "schema": "schema:schema",
}
GROUPS: Final = {
    "policy": "policy:policy_app",
    "site": "site:site_app",
    "coordinator": "coordinator:coordinator_app",
    "provision": "provision:provision_app",
    "ledger": "ledger:ledger_app",
    "start": "start:start_app",
    "budget": "budget:budget_app",
    "keys": "keys:keys_app",
    "carry": "carry:carry_app",
    "custodian": "keys:custodian_app",
    "audit": "audit:audit_app",
}
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",  # nothing is fetched at run time
    "OMP_WAIT_POLICY": "passive",  # waiting threads leave the cores to others
    "TOKENIZERS_PARALLELISM": "false",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it CUDA's products do not repeat themselves bit for bit
}


def command_line(first: str | None = None) -> typer.Typer:
    """The whole command line; or only what its first word needs, if it is one of ours."""
    app = typer.Typer(
        help="Organisations fine-tune one language model on text they may not share: under policy, with receipts.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_before)  # so that one command alone keeps its name
    known = first in COMMANDS or first in GROUPS or first == "--version"
    for name in [each for each in COMMANDS if not known or each == first]:
        app.command(name)(_found(COMMANDS[name]))
    for name in [each for each in GROUPS if not known or each == first]:
        app.add_typer(_found(GROUPS[name]), name=name)
    return app


def _version(asked: bool) -> None:  # noqa: FBT001 - what typer calls it with
    if asked:
        print(on_screen(f"securefl {__version__}"))
        raise typer.Exit


def _before(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """Do nothing before the command."""


def _found(place: str) -> Any:  # noqa: ANN401 - a command, or a group of them
    module, _, name = place.partition(":")
    return getattr(import_module(f"securefl.cli.{module}"), name)


def main(argv: list[str] | None = None) -> None:
    """Run one command; every fault becomes its message and its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        command_line(arguments[0] if arguments else None)(args=arguments, standalone_mode=True)
    except Unspoken as ended:
        from securefl.cli.publishing import WORDS  # noqa: PLC0415

        code, text = ended.code, f"{WORDS} in the home says why"
    except Exception as fault:  # the one place: what is no fault by name is our own
        ended_by = ending(fault)
        if ended_by.trace:
            say(ended_by.trace)
        code, text = ended_by.code, ended_by.text
        say(text)
    else:
        return
    if "--json" in arguments:
        print(in_json({"error": {"exit": code, "message": text}}, None))
    raise SystemExit(code)
