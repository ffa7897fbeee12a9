"""What was on is measured: a run says what its messages show, and what was not looked at is not called on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefl.audit import explain as e
from securefl.audit.explain import State
from securefl.errors import Tampered
from securefl.protection import packing
from securefl.protection.clear import ClearMember
from securefl.protection.masking import MaskingMember
from securefl.simulation import leakage_probe
from tests.simulation.test_run import run_cli
from tests.support.small import CANARY, MEMBERS, POLICY, Small

NAMES = (
    "policy", "records", "updates", "cohort", "threshold", "key holders", "noise", "sampling", "epsilon", "generator",
)  # fmt: skip
COLLUDING = POLICY.replace("colluding: 0", "colluding: 1")  # one of three may collude: shares of all three are needed


def states(run: Path) -> dict[str, State]:
    return {line.name: line.state for line in e.explain(run).lines}


def shown(run: Path, name: str) -> str:
    return next(line.shown for line in e.explain(run).lines if line.name == name)


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished / "run", tmp_path / "copy"))


def spoil(run: Path, keep) -> None:
    path = run / e.MEASURED
    lines = [line for line in path.read_text().splitlines() if keep(json.loads(line))]
    path.write_text("\n".join(lines) + "\n")


def test_under_masks_everything_was_on_and_says_how_much(finished: Path) -> None:
    run = finished / "run"
    assert states(run) == dict.fromkeys(NAMES, State.ON)
    assert "0.8 x 0.5 = 0.4 in each of 12 steps" in shown(run, "noise")
    assert "sums over 3, 3" in shown(run, "cohort")
    assert "256 bits" in shown(run, "generator")
    assert not e.explain(run).breached


def test_the_command_prints_the_table_and_the_promised_shape(finished: Path, capsys) -> None:
    code, text, _ = run_cli(capsys, "explain", finished / "run", "--json")
    told = json.loads(text)
    assert code == 0
    assert set(told) == {"run", "federation", "ok", "protections", "opens"}
    assert [line["name"] for line in told["protections"]] == list(NAMES)
    assert all(set(line) == {"name", "state", "shown"} for line in told["protections"])
    assert {line["state"] for line in told["protections"]} <= {"on", "off", "not measured"}
    assert all(set(each) == {"who", "what"} for each in told["opens"])
    code, text, _ = run_cli(capsys, "explain", finished / "run")
    assert (code, "updates     ON" in text) == (0, True)


def test_under_ckks_one_holds_the_key_and_no_secret_is_shared(small: Small, tmp_path: Path) -> None:
    policy = POLICY.replace("schemes: [masking, masked-ckks]", "trust: [custodian], schemes: [ckks]")
    small.run(tmp_path / "run", tmp_path / "sites", file=small.file("trusted.yaml", policy=policy, protection="ckks"))
    told = states(tmp_path / "run")
    assert told["threshold"] is State.OFF
    assert {told[name] for name in NAMES if name != "threshold"} == {State.ON}
    assert shown(tmp_path / "run", "key holders").startswith("1 ")
    assert ("the coordinator and the custodian", "every update") in e.explain(tmp_path / "run").opens


@pytest.mark.parametrize("written", ["ckks", "bfv"])
def test_ckks_has_masks_inside_where_nobody_trusts_the_custodian(written: str, small: Small, tmp_path: Path) -> None:
    policy = COLLUDING.replace("schemes: [masking, masked-ckks]", "schemes: [masked-bfv, masked-ckks]")
    result = small.run(
        tmp_path / "run", tmp_path / "sites", file=small.file(f"{written}.yaml", policy=policy, protection=written)
    )
    assert result.outcome == "finished", result.why
    assert states(tmp_path / "run") == dict.fromkeys(NAMES, State.ON)
    assert "whatever they know of the decryption key" in result.report["protections"]["who_can_open"]
    assert ("both and 3 members", "every update") in e.explain(tmp_path / "run").opens


def test_masks_inside_encryption_are_both_a_threshold_and_a_key(small: Small, tmp_path: Path) -> None:
    policy = COLLUDING.replace("schemes: [masking, masked-ckks]", "schemes: [masked-bfv]")
    small.run(
        tmp_path / "run", tmp_path / "sites", file=small.file("both.yaml", policy=policy, protection="masked-bfv")
    )
    assert states(tmp_path / "run") == dict.fromkeys(NAMES, State.ON)
    assert shown(tmp_path / "run", "key holders").startswith("1 ")
    assert ("both and 3 members", "every update") in e.explain(tmp_path / "run").opens


def test_in_the_clear_and_unsigned_both_show_as_off(small: Small, tmp_path: Path) -> None:
    lax = POLICY.replace("schemes: [masking, masked-ckks]", "schemes: [clear]").replace(
        "purposes: [testing]", "purposes: [testing, more]"
    )
    file = small.file("unsigned.yaml", policy=lax, protection="clear")
    (small.folder / "unsigned.yaml.policy.yaml.approvals.json").unlink(missing_ok=True)
    for path in small.folder.glob("unsigned.yaml.policy*approvals*"):
        path.unlink()
    small.run(tmp_path / "run", tmp_path / "sites", file=file, unsafe_unsigned=True)
    told = states(tmp_path / "run")
    assert {name for name, state in told.items() if state is State.OFF} == {
        "policy",
        "updates",
        "threshold",
        "key holders",
    }
    assert shown(tmp_path / "run", "updates") == f"clear: read as they are: {', '.join(MEMBERS)}"
    assert not e.explain(tmp_path / "run").breached, "it was asked for"


def test_what_a_bench_trained_without_noise_shows_as_off(copy: Path) -> None:
    report = json.loads((copy / "report.json").read_text())
    report["accuracy"]["without_privacy"] = 0.5
    (copy / "report.json").write_text(json.dumps(report))
    assert states(copy)["open arm"] is State.OFF


def test_without_the_benchs_eyes_nothing_it_would_have_seen_is_on(copy: Path) -> None:
    (copy / e.MEASURED).unlink()
    told = states(copy)
    assert {name for name, state in told.items() if state is State.UNKNOWN} == {"records", "updates", "generator"}


@pytest.mark.parametrize("what", ["message", "ledger", "result"])
def test_one_thing_that_was_not_looked_at_is_enough_to_say_so(copy: Path, what: str) -> None:
    left_out = next(f for f in map(json.loads, (copy / e.MEASURED).read_text().splitlines()) if f["what"] == what)
    spoil(copy, lambda fact: fact != left_out)
    assert states(copy)["updates" if what == "result" else "records"] is State.UNKNOWN


def test_a_line_that_was_cut_short_says_nothing(copy: Path) -> None:
    text = (copy / e.MEASURED).read_text().rstrip("\n")
    (copy / e.MEASURED).write_text(text[:-10])
    assert states(copy)["records"] is State.UNKNOWN


def test_a_run_that_was_refused_trained_nothing_and_says_so(small: Small, tmp_path: Path) -> None:
    file = small.file("refused.yaml", protection="clear")
    assert small.run(tmp_path / "run", tmp_path / "sites", file=file).outcome == "refused"
    told = states(tmp_path / "run")
    for name in ("updates", "cohort", "threshold", "key holders", "noise", "sampling"):
        assert told[name] is State.UNKNOWN


def test_ledgers_that_do_not_verify_explain_nothing(copy: Path, capsys) -> None:
    path = copy / "ledger" / "north.ledger"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(Tampered):
        e.explain(copy)
    assert run_cli(capsys, "explain", copy)[0] == 4
    assert run_cli(capsys, "explain", copy / "nowhere")[0] == 4


def test_a_record_in_a_message_is_seen_and_is_a_breach(small: Small, tmp_path: Path, capsys, monkeypatch) -> None:
    enrol = MaskingMember.enrol

    def leaking(self, *arguments):
        made = enrol(self, *arguments)
        return type(made)(made.secret, made.public + f"{CANARY} north was".encode())

    monkeypatch.setattr(MaskingMember, "enrol", leaking)
    small.run(tmp_path / "run", tmp_path / "sites")
    monkeypatch.undo()
    assert states(tmp_path / "run")["records"] is State.OFF
    assert "Enrolled of north" in shown(tmp_path / "run", "records")
    assert run_cli(capsys, "explain", tmp_path / "run")[0] == 4


def test_a_protection_that_hides_nothing_is_seen_and_is_a_breach(
    small: Small, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr("securefl.protection.masking.mask", lambda *_, **__: None)
    result = small.run(tmp_path / "run", tmp_path / "sites")
    assert result.outcome == "finished"
    monkeypatch.undo()
    assert states(tmp_path / "run")["updates"] is State.OFF
    assert run_cli(capsys, "explain", tmp_path / "run")[0] == 4


def test_seeds_that_were_given_or_are_short_are_no_generator(small: Small, tmp_path: Path) -> None:
    from tests.support.small import entropy

    small.run(tmp_path / "run", tmp_path / "sites", draw=entropy("given"))
    assert states(tmp_path / "run")["generator"] is State.OFF


def test_in_processes_of_their_own_what_members_draw_and_seal_was_not_measured(small: Small, tmp_path: Path) -> None:
    small.run(tmp_path / "run", tmp_path / "sites", file=small.file("processes.yaml", runtime="processes"))
    told = states(tmp_path / "run")
    assert (told["records"], told["updates"], told["generator"]) == (State.ON, State.UNKNOWN, State.UNKNOWN)


@given(st.lists(st.text(min_size=1, max_size=80), max_size=8), st.binary(max_size=60), st.data())
def test_every_piece_of_a_text_is_found_wherever_it_stands(texts: list[str], noise: bytes, data: st.DataObject) -> None:
    marks = leakage_probe.Marks(texts)
    for text in texts:
        raw = text.encode()
        if len(raw) >= leakage_probe.WINDOW:
            start = data.draw(st.integers(0, len(raw) - leakage_probe.WINDOW))
            assert len(marks.within(noise + raw[start : start + leakage_probe.WINDOW] + noise))
    windows = {
        raw[i : i + leakage_probe.WINDOW]
        for raw in map(str.encode, texts)
        for i in range(len(raw) - leakage_probe.WINDOW + 1)
    }
    there = {noise[i : i + leakage_probe.WINDOW] for i in range(len(noise) - leakage_probe.WINDOW + 1)}
    assert bool(len(marks.within(noise))) == bool(windows & there)


def test_a_mark_is_found_across_the_pieces_a_message_is_looked_at_in() -> None:
    marks = leakage_probe.Marks(["one record of a member that is long enough"])
    for place in (leakage_probe.PIECE - 20, leakage_probe.PIECE - 8, leakage_probe.PIECE, 2 * leakage_probe.PIECE - 1):
        assert len(marks.within(bytes(place) + b"record of a memb" + bytes(30)))


def test_so_much_text_that_only_a_share_of_its_marks_is_held_is_still_found() -> None:
    drawn = np.random.default_rng(1)
    texts = [drawn.bytes(3000).hex() for _ in range(1500)]
    marks = leakage_probe.Marks(texts)
    assert all(len(marks.within(f"..{text}..".encode())) for text in texts[:20])
    assert not len(marks.within(drawn.bytes(100_000)))


@given(st.integers(0, 2**32 - 1), st.sampled_from(["<f4", "<f8", "<i4", "<i8", "packed"]), st.integers(0, 9))
def test_an_update_in_whatever_numbers_is_seen_and_noise_is_not(seed: int, kind: str, before: int) -> None:
    values = np.random.default_rng(seed).normal(0, 1, 40)
    grid = np.rint(values * 2**16)
    if kind == "packed":
        given = packing.pack(grid.astype("<i8").view("<u8"), 27)
    else:
        given = (values if kind[1] == "f" else grid).astype(kind).tobytes()
    assert leakage_probe.readable(bytes(before) + given, values, 16, 27)
    assert not leakage_probe.readable(np.random.default_rng(seed + 1).bytes(1000), values, 16, 27)


def test_the_half_that_is_looked_at_is_the_half_it_was() -> None:
    half = ClearMember()
    watched = leakage_probe.LeakageProbe(Path("unused"), ()).half(half)
    assert watched.scheme == half.scheme
    assert watched.admit == half.admit
