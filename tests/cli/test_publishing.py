"""What a process publishes of itself: numbers under listed names, whatever it was told."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefl import wire
from securefl.cli.faults import Unspoken
from securefl.cli.main import main
from securefl.cli.publishing import MOST_WORDS, Log, Publisher, Words, published
from securefl.coordinator import counts as coordinating
from securefl.errors import OperatorFault
from securefl.metrics import Family, Metrics
from securefl.protocol.messages import NoAnswer
from securefl.runtime.answering import ANSWER, SILENCE
from securefl.seams import Failure
from securefl.site import counts as serving
from securefl.terms import MemberId, rules
from tests.support.parties import Federation, InOrder, in_process, waiting

LINE = re.compile(r'securefl_[a-z_]+(\{[a-z]+="[A-Za-z.-]+"\})? \d+')
ABOUT = re.compile(r"# (HELP|TYPE) securefl_[a-z_]+ .+")


def is_exposition(text: str) -> bool:
    """Whether every line is one of the exposition format, and each family is explained once, before its numbers."""
    lines = text.splitlines()
    return all(LINE.fullmatch(each) or ABOUT.fullmatch(each) for each in lines) and text.endswith("\n")


@given(st.lists(st.tuples(st.sampled_from([*sorted(rules.FAULTS)]), st.integers(1, 30))))
def test_numbers_are_what_was_counted_and_the_text_says_so(counted):
    counts = serving.Counts(lambda *_: None)
    for rule, times in counted:
        for _ in range(times):
            counts.said(SILENCE + wire.encode(NoAnswer(rule)))
    numbers = counts.metrics.numbers()
    assert numbers["requests_total", "refused"] == sum(times for _, times in counted)
    text = counts.metrics.text()
    assert is_exposition(text)
    for rule in {rule for rule, _ in counted}:
        total = sum(times for each, times in counted if each == rule)
        assert f'securefl_refused_total{{rule="{rule}"}} {total}' in text.splitlines()


@given(st.binary(max_size=200))
def test_no_byte_of_an_answer_becomes_a_name(body):
    counts = serving.Counts()
    counts.said(ANSWER + body)
    assert counts.metrics.numbers()["replies_total", serving.OTHER] == 1
    assert is_exposition(counts.metrics.text())


def test_what_is_on_no_list_cannot_be_counted():
    metrics = Metrics([Family("a", "A.", "kind", ("x",)), Family("b", "B.")])
    for name, value in (("a", "y"), ("a", ""), ("c", "")):
        with pytest.raises(KeyError):
            metrics.add(name, value)
    with pytest.raises(AssertionError):
        metrics.put("a", 1, "patient-4711")


def test_the_operator_is_told_of_the_first_the_tenth_and_the_hundredth_time():
    told = []
    counts = serving.Counts(lambda *said: told.append(said))
    for _ in range(1001):
        counts.refused("protocol.forged")
    assert told == [("protocol.forged", times) for times in (1, 10, 100, 1000)]


def test_a_coordinators_numbers_are_totals_without_a_name(tmp_path: Path):
    federation, counts = Federation(tmp_path, luck=(("a", "refuses"),)), coordinating.Counts()
    with in_process(federation) as runtime:
        list(coordinating.Counted(runtime, counts).exchange([(MemberId("nobody"), b"123")], waiting(1)))
        seen = []
        federation.drive(Seeing(InOrder(coordinating.Counted(runtime, counts)), seen), 1)
    numbers = counts.metrics.numbers()
    answers = [each for each in seen if not isinstance(each, Failure)]
    assert numbers["silences_total", coordinating.OTHER] == 1
    assert numbers["bytes_total", "up"] == sum(map(len, answers))
    assert numbers["bytes_total", "down"] > 3
    assert is_exposition(counts.metrics.text())


class Seeing:
    def __init__(self, inner, seen) -> None:
        self.inner, self.seen = inner, seen

    def exchange(self, outbound, wait):
        for member, answer in self.inner.exchange(outbound, wait):
            self.seen.append(answer)
            yield member, answer


def test_a_line_of_json_has_what_changed_and_nothing_else(tmp_path: Path):
    now, out, counts = [100.0], io.StringIO(), serving.Counts(lambda *_: None)
    publisher = Publisher(counts.metrics, tmp_path / "x.prom", out, lambda: now[0])
    publisher.look()
    counts.refused("protocol.forged")
    publisher.look()
    publisher.look()
    (line,) = out.getvalue().splitlines()
    assert json.loads(line) == {
        "at": 100,
        "event": "counts",
        "requests_total.refused": 1,
        "refused_total.protocol.forged": 1,
    }
    now[0] = 160.0
    publisher.look()
    assert "securefl_written_seconds 160\n" in (tmp_path / "x.prom").read_text()
    assert "securefl_started_seconds 100\n" in (tmp_path / "x.prom").read_text()
    assert (tmp_path / "x.prom").stat().st_mode & 0o777 == 0o644
    assert [each.name for each in tmp_path.iterdir()] == ["x.prom"]


def test_under_json_words_stay_in_the_home(tmp_path: Path, capsys):
    counts = serving.Counts(serving.told)
    with published(counts.metrics, None, Log.JSON, tmp_path):
        print("patient-4711: round 1 refused here", file=sys.stderr)
        counts.refused("protocol.forged")
    said = capsys.readouterr().err
    events = [json.loads(each) for each in said.splitlines()]
    assert [each["event"] for each in events] == ["begun", "counts", "ended"]
    assert "patient" not in said
    assert "patient-4711: round 1 refused here\nprotocol.forged: 1 so far\n" == (tmp_path / "words.log").read_text()
    assert (tmp_path / "words.log").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (OperatorFault("`label` is patient-4711", "map it", "north.csv:63"), 2),
        (PermissionError(13, "denied", "patient-4711"), 2),
        (ZeroDivisionError("patient-4711"), 70),
    ],
)
def test_under_json_what_ends_a_process_is_told_in_its_home_and_outside_by_its_exit_code(
    fault: Exception, code: int, tmp_path: Path, capsys
) -> None:
    with pytest.raises(Unspoken) as ended, published(serving.Counts().metrics, None, Log.JSON, tmp_path):
        raise fault
    assert ended.value.code == code
    *_, last = [json.loads(each) for each in capsys.readouterr().err.splitlines()]
    assert (last["event"], last["exit"]) == ("ended", code)
    words = (tmp_path / "words.log").read_text()
    assert "patient-4711" in words
    assert ("Traceback" in words) == (code == 70)


@pytest.mark.parametrize("more", [("--let-in", "patient-4711"), ("--socket", f"/{'patient-4711' * 20}")])
def test_under_json_a_site_that_does_not_start_says_no_word_outside_its_home(
    more: tuple[str, ...], tmp_path: Path, capsys
) -> None:
    (tmp_path / "site.yaml").write_text("securefl_site: 1\nname: custodian\nhome: h\nfederations: {}\n")
    (tmp_path / "h").mkdir(mode=0o700)
    with pytest.raises(SystemExit) as ended:
        main(["site", "serve", str(tmp_path / "site.yaml"), "--log", "json", "--json", *more])
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert [json.loads(each)["event"] for each in err.splitlines()] == ["begun", "ended"]
    assert json.loads(out)["error"] == {"exit": 2, "message": "words.log in the home says why"}
    assert "patient-4711" in (tmp_path / "h" / "words.log").read_text()
    assert "patient" not in out + err


def test_words_are_bounded_and_a_disk_that_is_full_ends_nothing(tmp_path: Path):
    words = Words(tmp_path / "words.log")
    for _ in range(3):
        words.write("x" * (MOST_WORDS // 2 + 1))
    words.write("last")
    assert (tmp_path / "words.log").stat().st_size == MOST_WORDS // 2 + 1 + 4
    assert (tmp_path / "words.log.1").stat().st_size == MOST_WORDS + 2
    assert Words(tmp_path / "gone" / "words.log").write("lost") == 4


@pytest.mark.parametrize("name", ["x.txt", "gone/x.prom", "x"])
def test_a_file_that_nobody_would_collect_is_refused(name: str, tmp_path: Path):
    with (
        pytest.raises(OperatorFault, match="ends in .prom"),
        published(Metrics([]), tmp_path / name, Log.TEXT, tmp_path),
    ):
        raise AssertionError("it began")


def test_a_log_that_nobody_reads_any_more_ends_nothing_and_the_file_is_still_written(tmp_path: Path):
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    metrics = Metrics((Family("seen_total", "Seen."), *(Family(f"{n}_seconds", n) for n in ("started", "written"))))
    publisher = Publisher(metrics, tmp_path / "counts.prom", Gone(), lambda: 7.0)
    metrics.add("seen_total")
    publisher.look()
    publisher.tell("ended")
    assert "securefl_seen_total 1" in (tmp_path / "counts.prom").read_text()
