"""Text that means what it looks like: no name that hides is decoded, and whatever is shown is shown whole."""

from __future__ import annotations

import io
import json
import unicodedata

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from securefl import progress, shown, wire
from securefl.audit import report
from securefl.cli import main as cli
from securefl.cli import options
from securefl.errors import Malformed
from securefl.terms import Closed, Hash, MemberId, Participant, PublicKey, Reason, Refused, ReservationReleased, RunId

HIDES = "\x00\x07\x1b\r\n\t\x7f\x85\x9b\xad\u061c\u200b\u200d\u200f\u2028\u202e\u2066\ufeff\u3164\ufe0f\U000e0041"
HOSTILE = st.text(st.sampled_from("ab[/x]:é " + HIDES) | st.characters(codec="utf-8"), max_size=30)


@given(HOSTILE)
def test_what_is_shown_holds_nothing_that_hides_and_what_hides_nothing_is_shown_as_it_is(text: str) -> None:
    assert shown.hidden(shown.plain(text)) is None
    assert (shown.plain(text) == text) == (shown.hidden(text) is None)
    assert all(shown.hidden(line) is None for line in shown.on_screen(text).split("\n"))


@given(st.characters(codec="utf-8"))
def test_every_control_and_every_mark_of_direction_hides(mark: str) -> None:
    if unicodedata.category(mark) in ("Cc", "Zl", "Zp") or unicodedata.bidirectional(mark) in (
        "LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI", "BN",
    ):  # fmt: skip
        assert shown.hidden(mark) == mark


# from Unicode's DerivedCoreProperties (Default_Ignorable_Code_Point) and PropList (White_Space), a range each
IGNORABLE = "AD 34F 61C 115F-1160 17B4-17B5 180B-180F 200B-200F 202A-202E 2060-206F 3164 FE00-FE0F FEFF FFA0 FFF0-FFF8 1BCA0-1BCA3 1D173-1D17A E0000-E0FFF"
SPACES = "9-D 85 A0 1680 2000-200A 2028-2029 202F 205F 3000"
EMPTY = "2800 FFFC 1107F 13440-13442 16FE4 1D159 FDD0-FDEF FFFE-FFFF 1FFFE-1FFFF 10FFFE-10FFFF E000-F8FF"


def test_the_list_holds_what_unicode_says_is_not_drawn() -> None:
    listed = [part.split("-") for part in f"{IGNORABLE} {SPACES} {EMPTY}".split()]
    marks = {chr(c) for part in listed for c in range(int(part[0], 16), int(part[-1], 16) + 1)}
    assert all(shown.hidden(mark) == mark for mark in marks)
    for c in map(chr, range(0x110000)):
        if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") or (c.isspace() and c != " "):
            assert shown.hidden(c) == c, hex(ord(c))
        elif unicodedata.category(c)[0] in "LNPS" and c not in marks:
            assert shown.hidden(c) is None, hex(ord(c))  # what is drawn is no secret


@pytest.mark.parametrize("mark", ["\u2800", "\U00016fe4", "\U0001d159", "\u00a0", "\U000e0100", "\ue000", "\u3164"])
def test_two_names_that_print_alike_are_not_both_names(mark) -> None:
    assert shown.drawn(f"nor{mark}th") == "north"
    assert shown.plain(f"nor{mark}th") != "north"
    with pytest.raises(ValueError, match="does not show as itself"):
        wire.encode(Participant(MemberId(f"nor{mark}th"), PublicKey(bytes(32)), "here"))


@given(HOSTILE | st.dictionaries(HOSTILE, st.lists(HOSTILE | st.integers(), max_size=3), max_size=3))
def test_json_reads_back_the_same_and_hides_nothing(value: object) -> None:
    text = shown.in_json(value)
    assert json.loads(text) == value
    assert all(shown.hidden(line) is None for line in text.split("\n"))


@pytest.mark.parametrize("mark", HIDES)
def test_a_name_that_hides_something_is_neither_written_nor_read(mark: str) -> None:
    honest = wire.encode(Participant(MemberId("north"), PublicKey(bytes(32)), "here"))
    raw = cbor2.loads(honest)
    assert wire.decode(honest, Participant).member == "north"
    for place in (1, 3):
        spoiled = [f"{each}{mark}" if index == place else each for index, each in enumerate(raw)]
        with pytest.raises(Malformed, match="does not show as itself"):
            wire.decode(cbor2.dumps(spoiled, canonical=True), Participant)
    with pytest.raises(ValueError, match="does not show as itself"):
        wire.encode(Participant(MemberId(f"north{mark}"), PublicKey(bytes(32)), "here"))
    with pytest.raises(ValueError, match="does not show as itself"):
        wire.encode({f"north{mark}": 1})


@given(HOSTILE, HOSTILE)
def test_words_made_from_anything_can_be_written_down_and_read_back(first: str, second: str) -> None:
    reason = Reason("budget.epsilon", first, second, first)
    run = RunId(bytes(16))
    entries = (
        Refused(run, 1, first, (reason,)),
        ReservationReleased(Hash(bytes(32)), second),
        Closed(run, "aborted", first),
    )
    for entry in entries:
        assert wire.decode(wire.encode(entry), type(entry)) == entry


def test_a_bar_and_a_line_show_words_as_they_are(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    words = "[/x] [bold]:boom: \x1b[2J\u202e"
    for made, say in ((progress.progress, "progress"), (progress.tally, "tally")):
        with made() as told:
            told.say(words)
        assert capsys.readouterr().err == f"{shown.plain(words)}\n", say
        screen = io.StringIO()
        monkeypatch.setattr("sys.stderr", screen)
        monkeypatch.setattr(screen, "isatty", lambda: True, raising=False)
        with made() as told:
            told.say(words)
            if say == "progress":
                told.round(1, 2, 0.5, 8.0)
                told.step(words, 1, 2)
        monkeypatch.undo()
        assert "[/x] [bold]:boom: \\x1b[2J\\u202e" in screen.getvalue()
        assert "\x1b[2J" not in screen.getvalue()
        assert "\u202e" not in screen.getvalue()


def test_the_command_line_prints_faults_and_answers_plainly(capsys) -> None:
    options.show(False, {}, "one \x1b[8m\ntwo \u202e")
    options.show(True, {"why": "\x9b1m\u200b"}, "")
    told = capsys.readouterr().out
    assert told.startswith("one \\x1b[8m\ntwo \\u202e\n")
    assert json.loads(told.partition("\n{")[2].join(("{", ""))) == {"why": "\x9b1m\u200b"}
    assert shown.hidden(told.replace("\n", "")) is None
    with pytest.raises(SystemExit):
        cli.main(["audit", "replay", "no\x1b[2Jwhere\u202e"])
    assert shown.hidden(capsys.readouterr().err.replace("\n", "")) is None


def test_a_page_and_a_report_hide_nothing(finished, tmp_path) -> None:
    facts = json.loads((finished / "run" / "report.json").read_text())
    facts["federation"] = facts["members"][0]["name"] = facts["outcome"]["why"] = "a\x1b[2J\u202eb"
    report.write(facts, tmp_path)
    for name in ("report.json", "report.html"):
        text = (tmp_path / name).read_text()
        assert shown.hidden(text.replace("\n", "").replace("\t", "")) is None, name


def test_rich_is_told_of_no_markup_anywhere() -> None:
    import securefl

    folder = __import__("pathlib").Path(securefl.__file__).parent
    for path in folder.rglob("*.py"):
        for line in path.read_text().splitlines():
            assert "Console(" not in line or "markup=False" in line, path
            assert "TextColumn(" not in line or "markup=False" in line, path
            assert "console.print(" not in line or "markup=False" in line, path
    assert Console(file=io.StringIO(), markup=False) is not None
