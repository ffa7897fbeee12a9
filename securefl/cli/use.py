"""`securefl predict` and `evaluate`: use what came of a run, on texts and on labelled rows that are here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from securefl.cli.options import Json, show
from securefl.errors import OperatorFault

Base = Annotated[str | None, typer.Option(help="Where the base model is; else as the run names it.")]


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run, or the folder `modules` of one with tasks.")],
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Texts: CSV, TSV, JSON Lines, Parquet.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Which task; may be given several times; else all.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="A text; may be given several times.")] = None,
    column: Annotated[str, typer.Option(help="The file's column with the text.")] = "text",
    model: Base = None,
    as_json: Json = False,
) -> None:
    """What a run's model says of texts; of a run with tasks every task, from one base model that is loaded once."""
    from securefl.training import data, module_store  # noqa: PLC0415

    texts = [*(text or ()), *(data.texts(file, column) if file else ())]
    if not texts:
        raise OperatorFault("no text", "give --text, or a file", "predict")
    if (run / "run.json").exists():
        if task:
            raise OperatorFault("a run of one task", "leave --task out", str(run))
        from securefl.coordinator import released  # noqa: PLC0415

        model_of_run = released.model(released.read(run), model, run)
        answers = {"": model_of_run.answer(texts)}
    else:
        modules = module_store.Modules.open(run / "modules" if (run / "modules").is_dir() else run, model)
        answers = {name: modules.answer(name, texts) for name in task or modules.manifests}
    rows = [
        {"row": row, **({"task": name} if name else {}), "label": each.label, "probabilities": dict(each.probabilities)}
        for row in range(len(texts))
        for name, each in ((name, told[row]) for name, told in answers.items())
    ]
    width = 20 if any("task" in each for each in rows) else 0
    lines = [f"{r['row']!s:<8}{r.get('task', '')!s:<{width}}{r['label']}" for r in rows]
    show(as_json, {"store": str(run), "answers": rows}, "\n".join(lines))


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="What `securefl run` or `coordinate` left.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Labelled rows: CSV, TSV, JSON Lines, Parquet.")],
    column: Annotated[str, typer.Option(help="The file's column with the text.")] = "text",
    label: Annotated[str, typer.Option(help="The file's column with the label.")] = "label",
    rename: Annotated[
        list[str] | None, typer.Option(help="A label of the file as the run calls it, such as 1=good; several times.")
    ] = None,
    model: Base = None,
    as_json: Json = False,
) -> None:
    """How a run's model does on labelled rows that are here: each distinct text once. Nothing of it leaves."""
    from securefl.coordinator import released  # noqa: PLC0415
    from securefl.documents.data_source import DataSource  # noqa: PLC0415
    from securefl.training.data import load  # noqa: PLC0415

    found = released.read(run)
    given: dict[str, Any] = {"file": str(file.resolve()), "text": column, "label": label, "heldout": 0}
    given["labels"] = dict(_pair(each) for each in rename or ())
    records = load(DataSource.model_validate(given), Path.cwd(), found.plan.task.labels)
    told = released.model(found, model, run).evaluate(records.train)
    lines = [f"{name:<10}{value if isinstance(value, int) else f'{value:.4f}'}" for name, value in told.items()]
    answer = {"run": str(run), "rows": str(records.counts), **told}
    show(as_json, answer, "\n".join([f"rows      {records.counts}", *lines]))


def _pair(said: str) -> tuple[str, str]:
    theirs, sign, ours = said.partition("=")
    if not sign:
        raise OperatorFault(f"found {said}", "write LABEL-OF-THE-FILE=LABEL-OF-THE-RUN", "--rename")
    return theirs, ours
