"""`securefl start`: the file by which a coordinator knows a model that it does not have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from securefl.cli.installed import check_trains
from securefl.cli.options import Json, group, show

if TYPE_CHECKING:
    from securefl.terms.start import Start

start_app = group("Where training starts, for a coordinator without the model.")
Made = Annotated[Path, typer.Argument(metavar="FILE", help="The start file.")]


@start_app.command("make")
def start_make(
    document: Annotated[
        Path, typer.Argument(metavar="DOCUMENT", help="A SITE or COORDINATOR document, or a federation's file.")
    ],
    file: Made,
    model: Annotated[str | None, typer.Option(help="Where the model is here; else as the document says.")] = None,
    federation: Annotated[str | None, typer.Option(help="Of a site in several federations: which one.")] = None,
    task: Annotated[str | None, typer.Option(help="Of a federation with several tasks: which one.")] = None,
    as_json: Json = False,
) -> None:
    """Write the names, shapes and first values of what is trained; whoever has the model does this once."""
    from securefl.planning import start_file  # noqa: PLC0415

    check_trains()
    start_file.write(file, _start_of(document, model, federation, task))
    _show(as_json, file, start_file.read(file))


def _start_of(path: Path, place: str | None, federation: str | None, of_task: str | None) -> Start:
    """Return where training starts, of the model that a document names."""
    from securefl.documents import coordinator_file, coordinator_suite, federation_file, site_file, strict  # noqa: PLC0415
    from securefl.training.shared_model import SharedModel  # noqa: PLC0415

    document = strict.read(path)
    if document.has("securefl_site"):
        from securefl.site.build import model_of  # noqa: PLC0415

        site = site_file.load(path).view(federation, of_task)
        return model_of(site, site.trusted(None)[0]).start
    if document.has("securefl_coordinator"):
        found = coordinator_suite.of(document, path)
        one = found if isinstance(found, coordinator_file.Coordinator) else found.of_task(of_task)
        file = one.file
        name, at, folder = file.model.name, file.model.at, path.resolve().parent
        task, adapter = file.task.task(), file.adapter.adapter()
    else:
        loaded = federation_file.of(document, path)
        name, at, folder = loaded.file.model, None, loaded.folder
        task, adapter = loaded.file.task.task(), loaded.file.adapter.adapter()
    where = (place, Path.cwd()) if place else (at or name, folder)
    return SharedModel.load(*where, task, adapter, called=name).start


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
