"""The report of a run whose coordinator had its own ledger alone: made once the others' exported ledgers are here.

It holds nothing but what the ledgers in the folder give, and what the coordinator wrote into ``coordinated.json`` when
the run ended, which its ledger binds. So nobody has to vouch for it: ``audit verify`` makes it again and compares, page
included. Accuracy is not in it: held-out rows are at their sites, and each site evaluates its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from securefl.audit import figures, folder, json_files, report
from securefl.audit.ledger_files import Ledger
from securefl.errors import OperatorFault, Tampered
from securefl.shown import in_json, plainly
from securefl.terms import MemberId, RunId

PAGE = "report.html"
NOTE = "held-out rows stay at their site"
AGAIN = "make it again from the ledgers that are here now: `securefl report RUN`"


def facts(told: Mapping[str, Any], ledgers: Mapping[MemberId, Ledger], run: RunId) -> dict[str, Any]:
    """The report that a coordinator's telling and everybody's ledgers give.

    Args:
        told: what ``coordinated.json`` holds.
        ledgers: of all who were heard in the run.
        run: which run.

    Raises:
        OperatorFault: nobody reserved a plan, so there is nothing to report.
        Tampered: the run has no coordinator here, or did not end.
    """
    if figures.first_plan(ledgers, run) is None:
        what = "nobody reserved a plan of this run: no price, account or protection is in its ledgers"
        raise OperatorFault(what, f"read {folder.COORDINATED}: it tells how the run ended")
    found = figures.figures(ledgers, run)
    rows = sorted((str(name), region) for name, region in found["members"].items())
    made = found | {
        "members": [{"name": name, "region": region, "heldout": None, "note": NOTE} for name, region in rows],
        "accuracy": None,
        "epsilon": found["epsilon"] | {"accountant_version": told["versions"].get("dp-accounting", "")},
        "seconds": {"total": told["seconds"]},
        "protections": found["protections"] | {"engine": None, "who_can_open": told["who_can_open"]},
        "adapter": told["adapter"],
        "versions": told["versions"],
    }
    plain: dict[str, Any] = plainly(report.Report.model_validate(made).model_dump(mode="json"))
    return plain


def write(made: Mapping[str, Any], run: Path) -> None:
    """Write ``report.json``, then ``report.html``, each whole. The page has no pictures: it is the same wherever made.

    Whoever is killed between the two leaves a report without its page, or with an older one; it is made again.
    """
    for name, text in ((folder.REPORT, in_json(made)), (PAGE, report.page_of(dict(made), {}))):
        beside = run / f"{name}.new"
        beside.write_text(text, encoding="utf-8")
        beside.replace(run / name)


def check(run: Path, told: Mapping[str, Any], ledgers: Mapping[MemberId, Ledger], run_id: RunId) -> None:
    """Check that report and page, if they are here, are what ``facts`` and ``write`` give.

    Raises:
        Tampered: one is not; the figure is named.
    """
    if not (run / folder.REPORT).exists():
        if (run / PAGE).exists():
            raise Tampered(PAGE, f"a page, and no {folder.REPORT} that it shows; {AGAIN}")
        return
    found = json_files.mapping(run / folder.REPORT)
    try:
        due = facts(told, ledgers, run_id)
    except OperatorFault as fault:
        raise Tampered(folder.REPORT, str(fault)) from fault
    try:
        figures.compare(folder.REPORT, due, found)
        more = figures.more(due, found)
    except Tampered as fault:
        raise Tampered(fault.where, f"{fault.why}; {AGAIN}") from fault
    if more:
        raise Tampered(folder.REPORT, f"{more[0]}: no ledger gives it; {AGAIN}")
    if not (run / PAGE).is_file():
        raise Tampered(PAGE, f"missing beside {folder.REPORT}; {AGAIN}")
    if (run / PAGE).read_text(encoding="utf-8") != report.page_of(json.loads(json.dumps(found)), {}):
        raise Tampered(PAGE, f"not the page of {folder.REPORT}; {AGAIN}")
