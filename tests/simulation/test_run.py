"""Whole runs on real text and a real (tiny) encoder: what they leave behind, refuse, and survive."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from securefl.audit.replay import accounts, replay
from securefl.audit.verify import verify
from securefl.cli import main as cli
from securefl.terms.parties import CUSTODIAN
from tests.support.small import CANARY, MEMBERS, POLICY, Small

FORK = multiprocessing.get_context("fork")


def run_cli(capsys, *argv: str) -> tuple[int, str, str]:
    capsys.readouterr()
    try:
        cli.main([str(part) for part in argv])
        code = 0
    except SystemExit as leaving:
        code = leaving.code or 0
    told = capsys.readouterr()
    return code, told.out, told.err


def test_a_finished_run_leaves_an_adapter_ledgers_and_a_report_that_verify(finished: Path) -> None:
    out = finished / "run"
    verdict = verify(out)
    assert verdict.ok, verdict.why
    assert {path.stem for path in (out / "ledger").iterdir()} == {*MEMBERS, "coordinator"}
    report = json.loads((out / "report.json").read_text())
    assert report["outcome"]["status"] == "finished"
    assert len(report["rounds"]) == 2
    assert report["bytes"]["up"] > 0
    assert "bench only" in report["accuracy"]["note"]
    assert (out / "report.html").read_text().count("<svg") == 3


def test_a_site_without_a_held_out_row_is_read_and_warned_of(tmp_path: Path) -> None:
    from securefl.documents import federation_file
    from securefl.simulation import parties
    from securefl.simulation.layout import SiteLayout

    shares = {"north": 1e-9, "south": 0.2, "west": 0}
    members = [
        {"name": name, "region": "here", "data": {"file": f"{name}.csv", "heldout": share}}
        for name, share in shares.items()
    ]
    places = SiteLayout(federation_file.load(Small(tmp_path).file(members=members)), None)
    held = parties.held_records(places, parties.records_of)
    (told,) = parties.without_held_out([places], held)
    assert told.startswith(f"north: none of {len(held[()]['north'].train)} rows is held out at heldout=1e-09")
    assert "raise `heldout`" in told


def test_the_adapter_loads_with_peft_and_gives_the_accuracy_the_report_claims(finished: Path, small: Small) -> None:
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer

    from securefl.documents import federation_file
    from securefl.simulation import parties

    out = finished / "run" / "adapter"
    tokenizer = AutoTokenizer.from_pretrained(small.folder / "model")
    encoder = PeftModel.from_pretrained(AutoModel.from_pretrained(small.folder / "model"), out).eval()
    assert any(bool(p.abs().sum() > 0) for n, p in encoder.named_parameters() if "lora_B" in n)
    head = load_file(out / "head.safetensors")
    loaded = federation_file.load(small.folder / "federation.yaml")
    right = total = 0
    for name in MEMBERS:
        for record in parties.records_of(loaded, name).heldout:
            batch = tokenizer([record.text], truncation=True, max_length=16, return_tensors="pt")
            with torch.no_grad():
                pooled = encoder(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state.mean(1)
            right += int((pooled @ head["weight"].T + head["bias"]).argmax()) == record.label
            total += 1
    report = json.loads((finished / "run" / "report.json").read_text())
    assert right / total == pytest.approx(report["accuracy"]["after"])


def test_spent_epsilon_is_what_the_accountant_says_of_the_ledgers_events(finished: Path) -> None:
    import dp_accounting
    from dp_accounting import pld

    told = replay(finished / "run")
    assert {event["member"] for event in told["events"]} == set(MEMBERS)
    accountant = pld.PLDAccountant(
        dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=1e-3
    )
    for event in told["events"]:
        assert event["state"] == "settled"
        if event["member"] == "north":
            rate = event["sampling_rate"][0] / event["sampling_rate"][1]
            gaussian = dp_accounting.GaussianDpEvent(event["noise_multiplier"])
            accountant.compose(dp_accounting.PoissonSampledDpEvent(rate, gaussian), event["steps"])
    expected = accountant.get_epsilon(told["epsilon"]["delta"])
    report = json.loads((finished / "run" / "report.json").read_text())
    for spent in (
        told["epsilon"]["pld"],
        report["epsilon"]["spent"],
        *(a["spent"] for a in accounts(finished / "run")),
    ):
        assert expected <= spent + 1e-12
        assert spent == pytest.approx(expected, abs=1e-6)  # noise that ends is taken off delta
    assert told["epsilon"]["pld"] <= told["epsilon"]["rdp"]


def test_commands_print_one_json_object_of_the_promised_shape(finished: Path, small: Small, capsys) -> None:
    out = finished / "run"
    code, text, _ = run_cli(capsys, "audit", "verify", out, "--json")
    assert code == 0
    assert set(json.loads(text)) == {
        "ok", "entries", "first_bad", "why", "unsigned", "pinned", "keys", "unverified",
    }  # fmt: skip
    code, text, _ = run_cli(capsys, "audit", "replay", out, "--json")
    told = json.loads(text)
    assert code == 0
    assert set(told) == {"events", "epsilon"}
    assert set(told["events"][0]) == {"member", "mechanism", "sampling_rate", "noise_multiplier", "steps", "state"}
    for ledger in (out, out / "ledger", out / "ledger" / "north.ledger"):
        code, text, _ = run_cli(capsys, "budget", "show", ledger, "--json")
        rows = json.loads(text)["accounts"]
        assert code == 0
        assert {"level", "name", "limit", "spent", "reserved", "left", "delta", "unit"} <= set(rows[0])
    code, text, _ = run_cli(
        capsys, "policy", "explain", small.folder / "policy.yaml", small.folder / "federation.yaml", "--json"
    )
    assert (code, json.loads(text)["decision"]) == (0, "grant")
    code, text, _ = run_cli(capsys, "policy", "check", small.folder / "policy.yaml", "--json")
    assert (code, json.loads(text)["ok"]) == (0, True)
    code, text, _ = run_cli(capsys, "doctor", "--json")
    assert (code, "findings" in json.loads(text)) == (0, True)


def test_a_run_prints_where_everything_is(small: Small, tmp_path: Path, capsys) -> None:
    code, text, _ = run_cli(
        capsys, "run", small.folder / "federation.yaml", "--out", tmp_path / "run", "--sites", tmp_path / "sites", "--json",
        "--with-local", "--without-privacy",
    )  # fmt: skip
    told = json.loads(text)
    assert code == 0
    assert {"run", "report", "adapter", "accuracy", "epsilon"} <= set(told)
    assert Path(told["report"]).exists()
    assert Path(told["adapter"]).is_dir()
    assert told["accuracy"]["local_only"] is not None
    assert told["accuracy"]["without_privacy"] is not None


def same(size: int) -> bytes:
    """The same bytes whenever asked: two runs under different schemes then draw the same noise."""
    return bytes(range(size % 256)) * (size // max(size % 256, 1))


def test_masks_and_ckks_end_with_the_same_adapter(small: Small, tmp_path: Path) -> None:
    masked = small.run(tmp_path / "masked", tmp_path / "sites1", draw=same)
    encrypted = small.run(
        tmp_path / "ckks", tmp_path / "sites2", file=small.file("ckks.yaml", protection="ckks"), draw=same
    )  # fmt: skip
    assert (masked.outcome, encrypted.outcome) == ("finished", "finished")
    for name in ("adapter_model.safetensors", "head.safetensors"):
        assert (masked.adapter / name).read_bytes() == (encrypted.adapter / name).read_bytes()
    assert verify(tmp_path / "ckks").ok
    assert "custodian" in {path.stem for path in (tmp_path / "ckks" / "ledger").iterdir()}


def test_two_runs_never_share_their_noise(small: Small, tmp_path: Path) -> None:
    adapters = []
    for name in ("one", "two"):
        torch.manual_seed(0)
        result = small.run(tmp_path / name, tmp_path / f"sites-{name}")
        adapters.append((result.adapter / "adapter_model.safetensors").read_bytes())
    assert adapters[0] != adapters[1]


def test_updates_in_the_clear_are_refused_by_name_before_training(small: Small, tmp_path: Path, capsys) -> None:
    file = small.file("clear.yaml", protection="clear")
    code, text, _ = run_cli(capsys, "run", file, "--out", tmp_path / "run", "--sites", tmp_path / "sites", "--json")
    assert code == 3
    assert "protection.schemes" in json.loads(text)["outcome"]["why"]
    assert "set protection to masking or masked-ckks" in json.loads(text)["outcome"]["why"]
    assert json.loads(text)["epsilon"]["spent"] == 0
    assert verify(tmp_path / "run").ok


def test_a_shipped_policy_that_allows_the_clear_says_so_in_its_name(small: Small, tmp_path: Path) -> None:
    lax = POLICY.replace("schemes: [masking, masked-ckks]", "schemes: [clear]")
    result = small.run(
        tmp_path / "run", tmp_path / "sites", file=small.file("lax.yaml", policy=lax, protection="clear")
    )  # fmt: skip
    assert result.outcome == "finished"
    assert "UNSAFE" in result.report["protections"]["who_can_open"]


def test_the_round_that_would_exceed_the_budget_is_refused_before_training(
    small: Small, tmp_path: Path, capsys
) -> None:
    tight = POLICY.replace("epsilon: 20", "epsilon: 9")
    file = small.file("tight.yaml", policy=tight)
    codes, spent = [], []
    for number in range(4):
        out = tmp_path / f"run{number}"
        code, text, _ = run_cli(capsys, "run", file, "--out", out, "--sites", tmp_path / "sites", "--json")
        codes.append(code)
        told = json.loads(text)
        spent.append(told["epsilon"]["spent"])
        assert told["epsilon"]["spent"] <= 9
        assert verify(out).ok, verify(out).why
        if code == 3:
            assert "budget.epsilon" in told["outcome"]["why"]
            assert "lower steps" in told["outcome"]["why"]
            break
    assert codes[-1] == 3
    assert codes[0] == 0
    assert spent == sorted(spent)
    row = next(a for a in accounts(out) if a["member"] == "north" and a["level"] == "dataset")
    assert row["reserved"] == 0
    assert 0 < row["spent"] <= 9


def test_records_under_a_new_name_are_not_paid_for_as_if_they_were_new(small: Small, tmp_path: Path, capsys) -> None:
    sites = tmp_path / "sites"
    assert run_cli(capsys, "run", small.file("first.yaml"), "--out", tmp_path / "first", "--sites", sites)[0] == 0
    members = [
        {"name": name, "region": "here", "data": {"file": f"{name}.csv"}, "dataset": f"new-{name}"} for name in MEMBERS
    ]
    again = small.file("again.yaml", members=members)
    before = {path: path.read_bytes() for path in sites.rglob("ledger.db")}
    code, _, told = run_cli(capsys, "run", again, "--out", tmp_path / "again", "--sites", sites)
    assert code == 2
    assert "say `dataset: north` of this member" in told
    assert {path: path.read_bytes() for path in sites.rglob("ledger.db")} == before, "nothing charged, nobody told"
    assert run_cli(capsys, "run", small.file("third.yaml"), "--out", tmp_path / "third", "--sites", sites)[0] == 0


def test_a_folder_with_a_finished_run_is_left_alone(finished: Path, small: Small, tmp_path: Path, capsys) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    out = tmp_path / "copy" / "run"
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    code, _, told = run_cli(
        capsys, "run", small.folder / "federation.yaml", "--out", out, "--sites", tmp_path / "copy" / "sites"
    )
    assert code == 2
    assert "choose another --out" in told
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def spent_by(sites: Path) -> float:
    """What a site's own ledger says it has spent or reserved, whatever state it was left in."""
    from securefl.home.home import Home
    from securefl.privacy.accountant import epsilon_pld
    from securefl.terms import Level, MemberId

    if not (sites / "north" / "ledger.db").exists():
        return 0.0
    home = Home.at(sites / "north", MemberId("north"), lambda: 0)
    with home.transaction() as conn:
        events = home.account(conn).events(Level.DATASET, "north")
    home.engine.dispose()
    return epsilon_pld(events, 1e-5)


def child(small: Small, out: Path, sites: Path, file: Path) -> None:
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    small.run(out, sites, file=file, page=True)
    os._exit(0)


def test_kill_9_at_any_moment_and_the_same_command_goes_on(small: Small, finished: Path, tmp_path: Path) -> None:
    file = small.file("killed.yaml", training__rounds=4)
    out, sites = tmp_path / "run", tmp_path / "sites"
    spent, killed, wait_s = [0.0], 0, 0.25
    for _ in range(60):
        process = FORK.Process(target=child, args=(small, out, sites, file))
        process.start()
        process.join(wait_s)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.join()
        spent.append(spent_by(sites))
        assert spent[-1] >= spent[-2], "what was spent became less"
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        wait_s *= 1.12
    assert killed >= 3
    verdict = verify(out)
    assert verdict.ok, verdict.why
    told = replay(out)
    rounds = [event for event in told["events"] if event["member"] == "north"]
    assert [event["state"] for event in rounds] == ["settled"] * 4
    report = json.loads((out / "report.json").read_text())
    assert [row["round"] for row in report["rounds"]] == [1, 2, 3, 4]


def test_an_interrupt_says_that_nothing_is_lost_and_the_same_command_goes_on(
    small: Small, tmp_path: Path, capsys, monkeypatch
) -> None:
    from securefl.training import step

    calls = 0
    real = step.private_gradient

    def interrupted(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(step, "private_gradient", interrupted)
    argv = ("run", small.folder / "federation.yaml", "--out", tmp_path / "run", "--sites", tmp_path / "sites")
    code, _, told = run_cli(capsys, *argv)
    assert code == 130
    assert "the same command goes on" in told
    code, _, _ = run_cli(capsys, *argv)
    assert code == 0
    assert verify(tmp_path / "run").ok


def test_no_word_of_a_record_is_in_what_a_run_leaves_or_prints(finished: Path) -> None:
    for path in (finished / "run").rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), path


def test_members_in_processes_of_their_own_survive_kill_9(small: Small, tmp_path: Path) -> None:
    from securefl.runtime.processes import Processes

    file = small.file("processes.yaml", runtime="processes", training__rounds=3)
    out, sites = tmp_path / "run", tmp_path / "sites"
    exchange = Processes.exchange
    struck: list[str] = []

    def striking(self, outbound, patience_s):
        asked = list(outbound)
        kinds = {member: data for member, data in asked}
        if len(struck) == 0 and b"Propose" in next(iter(kinds.values())) and self.pid("south"):
            os.kill(self.pid("south"), signal.SIGKILL)
            struck.append("south")
        yield from exchange(self, asked, patience_s)

    Processes.exchange = striking
    try:
        result = small.run(out, sites, file=file)
    finally:
        Processes.exchange = exchange
    assert struck == ["south"]
    assert result.outcome in {"finished", "aborted"}
    assert verify(out).ok, verify(out).why
    assert CUSTODIAN not in {path.stem for path in (out / "ledger").iterdir()}


def test_help_answers_quickly_and_loads_nothing_heavy() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from securefl.cli import main as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'peft', 'opacus', 'transformers', 'tenseal', 'sqlalchemy', 'matplotlib', 'dp_accounting', 'pydantic'}\n"
        "sys.stderr.write(','.join(sorted(heavy & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "audit" in done.stdout
    assert done.stderr == ""
