"""`securefl start`: the file by which a coordinator knows a model that it does not have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from securefl.cli.options import Json, show

if TYPE_CHECKING:
    from securefl.documents.coordinator_file import CoordinatorFile
    from securefl.documents.federation import FederationFile
    from securefl.terms.start import Start

start_app = typer.Typer(help="Where training starts, for a coordinator without the model.", no_args_is_help=True)
Made = Annotated[Path, typer.Argument(metavar="FILE", help="The start file.")]


@start_app.command("make")
def start_make(
    federation: Annotated[
        Path, typer.Argument(metavar="FEDERATION", help="A federation's file, or a COORDINATOR document.")
    ],
    file: Made,
    model: Annotated[str | None, typer.Option(help="Where the model is here; else as the federation names it.")] = None,
    as_json: Json = False,
) -> None:
    """Write the names, shapes and first values of what is trained; whoever has the model does this once."""
    from securefl.documents import coordinator_file, federation_file, strict  # noqa: PLC0415
    from securefl.planning import start_file  # noqa: PLC0415
    from securefl.training.shared_model import SharedModel  # noqa: PLC0415

    asked: CoordinatorFile | FederationFile
    if strict.read(federation).has("securefl_coordinator"):
        asked = coordinator_file.load(federation).file
        name, at = asked.model.name, asked.model.at
    else:
        asked = federation_file.load(federation).file
        name, at = asked.model, None
    where = (model, Path.cwd()) if model else (at or name, federation.parent)
    shared = SharedModel.load(*where, asked.task.task(), asked.adapter.adapter(), called=name)
    start_file.write(file, shared.start)
    _show(as_json, file, start_file.read(file))


@start_app.command("show")
def start_show(file: Made, as_json: Json = False) -> None:
    """What a start file holds, and the digest that people compare; needs no model."""
    from securefl.planning import start_file  # noqa: PLC0415

    _show(as_json, file, start_file.read(file))


def _show(as_json: bool, file: Path, start: Start) -> None:  # noqa: FBT001 - the option's own name
    from securefl.planning import start_file  # noqa: PLC0415

    tensors = [{"name": each.name, "shape": list(each.shape), "type": "float32"} for each in start.layout.tensors]
    digest = start_file.digest(start).hex()
    answer: dict[str, Any] = {
        "file": str(file),
        "digest": digest,
        "model": start.model.name,
        "model_sha256": start.model.digest.hex(),
        "adapter": start.adapter.kind.value,
        "rule": start.layout.rule.value,
        "entries": start.layout.entries,
        "tensors": tensors,
    }
    wide = max(len(each.name) for each in start.layout.tensors) + 2
    lines = [
        f"{file}: {start.layout.entries} values of {start.model.name}, sha256 {start.model.digest.hex()}",
        *(f"  {each.name:<{wide}}{' x '.join(map(str, each.shape)) or '1'}" for each in start.layout.tensors),
        f"digest {digest}",
    ]
    show(as_json, answer, "\n".join(lines))
