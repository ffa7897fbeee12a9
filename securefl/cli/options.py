"""Options that several commands share, and how an answer is printed."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from securefl.shown import in_json, on_screen

Unsigned = Annotated[
    bool, typer.Option("--unsafe-unsigned", help="Use a policy without its signatures; ledgers and report say so.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
KeyFile = Annotated[Path, typer.Option("--key", help="The signer's key, made by `securefl keys init`.")]
Days = Annotated[int, typer.Option(help="For how long the signature counts.", min=1, max=3650)]


def group(words: str) -> typer.Typer:
    """Commands under one word. Help is plain text: drawing boxes round it takes a third of the time to start."""
    return typer.Typer(help=words, no_args_is_help=True, rich_markup_mode=None)


def show(as_json: bool, answer: dict[str, Any], text: str) -> None:  # noqa: FBT001 - the option's own name
    """Print the answer for people, or as one JSON object."""
    print(in_json(answer) if as_json else on_screen(text))


def say(text: str, end: str = "\n") -> None:
    """Print for whoever watches, beside the answer. Words from elsewhere move nothing there."""
    with suppress(OSError, ValueError):  # a reader that is gone changes no exit code
        print(on_screen(text), end=end, file=sys.stderr, flush=True)
