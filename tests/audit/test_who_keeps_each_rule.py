"""No ledger is held to a rule that its honest owner does not keep: for each check, who makes its finding impossible.

A check that is added, or moves, needs a row here. A row says by which step an honest party keeps the rule, or that the
rule is asked only of runs whose coordinator's ledger is here: what a coordinator shows to others no member can see.
"""

from __future__ import annotations

import ast
from pathlib import Path

import securefl.audit

COVERED = "of covered runs: "
LEFT = "the coordinator of the run, as it writes down what the run left"
DECIDED = "`site/agent.py` decides and prices by the same functions, in one transaction with the entry"

KEPT: dict[str, str] = {
    # what parties sent, saw and were asked
    "roles.check": "each machine writes its own part, by the messages that it takes; `custody`: a plan names the key that was agreed to",
    "cross_checks.covered": "a home begins a run by a name once",
    "cross_checks.check_complete": "whoever lays ledgers beside each other",
    "cross_checks.check_openings": COVERED + "`on_invite`: federation, policy, task, roster and keys are its own; a name is joined once",
    "cross_checks.check_receipts": "`messages.check` before anything is written down; a sender writes down first",
    "cross_checks.check_heads": "a ledger grows; two heads of a party that is in no run here are listed",
    "cross_checks._seen_by": "`seen_heads.relayed`: of this run's parties alone; `terms.Receipt`: its sender's alone",
    "cross_checks._signer": "`seen_heads.check_named` and `relayed`, `key_standing.check_signatures`",
    "cross_checks.check_questions": "`requests.opened` in `on_ask`, whose one step has question and answer; all alike: " + COVERED,
    "key_checks.check": "`Ports.standing` in each machine, before what it judges; `home/notices.py` for notices",
    "ledger_files._whole": "whoever has a key hands it over once, `home/rotation.py`; else it was stolen",
    # its own account
    "price_checks.check_account": "`privacy/account.py` in `home.commit`; `requests.check` before a plan is decided",
    "price_checks._check_approvals": "`site/build.py` judges signatures before it serves",
    "price_checks._check_version": "`site/joining.py`: a site serves under the version that it agreed to last",
    "price_checks._adopt": "`policy.authority`, which a site asks before it agrees",
    "price_checks._check_result": "`member.on_trained`: settled, at its price, in the step that sends it",
    "price_checks._check_price": DECIDED + "; `accountant.bounded` is the lower of its two bounds",
    "price_checks._check_costs": DECIDED,
    "verify._check_ends": "`on_close` once, and it pays for what is under way",
    "verify._check_end": COVERED + "`on_close` writes what the coordinator said to it",
    # rounds, sums and releases
    "price_checks.check_rounds": COVERED + "its coordinator proposes one plan a round",
    "price_checks.check_sums": COVERED + "its coordinator uses what the custodian opened",
    "price_checks._check_openings": "`custodian._checked`, and the coordinator: one sum a round, over signed inputs, enough of them",
    "price_checks._check_handed_in": "its coordinator writes down each input as it comes",
    "price_checks._check_nobody_here": "an input is signed for its plan, and its sender wrote the plan down before",
    "releases._check_same": COVERED + "its coordinator tells all the same end",
    "releases._rounds": "the coordinator: `coordinator.opened` writes a sum and its release together",
    "releases._check_came": "the coordinator: `on_submitted` before `opened`",
    "releases._told": COVERED + "`on_close` writes the release that came with the end",
    "releases._opened_alone": COVERED + "its coordinator asks the custodian and uses what it opened",
    # what a run left
    "figures.of_coordinator": LEFT,
    "folder.check_ended": LEFT,
    "folder._check_last": "whoever copies ledgers into a run's folder",
    "folder.check_latest": "whoever copies ledgers into a run's folder",
    "folder.check_below": LEFT,
    "coordinated.check_below": "a coordinator that has its own ledger alone leaves nothing below",
    "report_entry.check_speakers": "a party called coordinator does nothing else, and nobody else has its name",
    "report_entry.the_one": LEFT,
    "report_entry.as_of": LEFT,
    "report_entry._named": LEFT,
    "report_entry._check_behind": LEFT + "; runs apart are others",
    "report_entry._cut": "a ledger grows",
    # a federation below, whose own coordinator is its node
    "tree.check": "`site/subfederation.py`: a node writes down what it passes on, before it does",
    "tree._check_totals": "the node, from its own coordinator's ledger",
    "tree._check_policies": "the node gives its members a policy that has its own above it",
    "tree._check_result": "the node: `subfederation.learning_below` and one run a plan",
    "tree._check_plan": "the node: `subfederation.learning_below`",
    "tree._check_told": "the node: `Gathered` stands in the step that sends its result",
    "tree._check_charges": "the node is charged for all steps before it shares them out",
}  # fmt: skip


def judging() -> set[str]:
    """Every function, by module, that calls a ledger wrong."""
    found = set[str]()
    for path in Path(securefl.audit.__path__[0]).glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            calls = (each.func for each in ast.walk(node) if isinstance(each, ast.Call))
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and any(
                isinstance(call, ast.Attribute) and call.attr == "wrong" for call in calls
            ):
                found.add(f"{path.stem}.{node.name}")
    return found


def test_for_each_check_somebody_keeps_the_rule_and_it_is_said_who() -> None:
    assert judging() == set(KEPT)
    assert all(KEPT.values())
