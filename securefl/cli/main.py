"""The command line: one door for people and scripts. Heavy parts are imported by the command that needs them.

Exit codes: 0 done; 2 bad input or usage; 3 refused by policy or budget; 4 verification failed; 5 a peer or the
transport failed; 70 a bug of ours; 130 interrupted.
"""

from __future__ import annotations

import os
import sys

import typer

from securefl.cli import audit, look, train
from securefl.cli.budget import budget_app
from securefl.cli.carry import carry_app
from securefl.cli.coordinator import coordinate, coordinator_app
from securefl.cli.faults import Unspoken, ending
from securefl.cli.keys import custodian_app, keys_app
from securefl.cli.ledger import ledger_app
from securefl.cli.options import say
from securefl.cli.policy import policy_app
from securefl.cli.provision import provision_app
from securefl.cli.publishing import WORDS
from securefl.cli.site import site_app
from securefl.cli.start import start_app
from securefl.shown import in_json

app = typer.Typer(
    help="Organisations fine-tune one language model on text they may not share: under policy, with receipts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(policy_app, name="policy")
app.add_typer(site_app, name="site")
app.add_typer(coordinator_app, name="coordinator")
app.add_typer(provision_app, name="provision")
app.add_typer(ledger_app, name="ledger")
app.add_typer(start_app, name="start")
app.add_typer(budget_app, name="budget")
app.add_typer(keys_app, name="keys")
app.add_typer(carry_app, name="carry")
app.add_typer(custodian_app, name="custodian")
app.add_typer(audit.audit_app, name="audit")
for command in (train.run, coordinate, train.predict, train.compare, look.report, look.explain, look.doctor):
    app.command()(command)
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",  # nothing is fetched at run time
    "OMP_WAIT_POLICY": "passive",  # waiting threads leave the cores to others
    "TOKENIZERS_PARALLELISM": "false",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it CUDA's products do not repeat themselves bit for bit
}


def main(argv: list[str] | None = None) -> None:
    """Run one command; every fault becomes its message and its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        app(args=arguments, standalone_mode=True)
    except Unspoken as ended:
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
