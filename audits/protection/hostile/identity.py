"""Is a thing still itself under another name?

Records come back renamed or rewritten, one row moves others, and a plan calls the site's model otherwise.
"""

from __future__ import annotations

import json
import random
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from audits.protection.attempt import Attempt, Outcome
from audits.protection.forging import POLICY, Field, proposed
from securefl.documents import federation_file
from securefl.documents.data_source import DataSource
from securefl.errors import OperatorFault
from securefl.home.home import Home
from securefl.ledger import store
from securefl.protocol import messages as m
from securefl.simulation import parties
from securefl.site import charged_records
from securefl.terms import Hash, MemberId, Model, Reserved
from securefl.terms.records import Record
from securefl.training.data import load
from securefl.training.shared_model import SharedModel
from tests.support import small
from tests.support.small import FILLER, MEMBERS, WORDS, Small
from tests.support.worlds import MODEL

RENAMED = "a record that was charged under another name"

# Records under another name. The site charged them before, as its own account says; then the federation's file, or the
# site's files, bring them back.

Rows = Sequence[tuple[str, str]]


def rows_of(drawn: random.Random, name: str) -> list[tuple[str, str]]:
    """Some texts with accents and their labels; none has another member's words in its order."""
    made = []
    for number in range(drawn.randint(25, 40)):
        label = drawn.choice(sorted(WORDS))
        words = [*drawn.sample(FILLER, 4), *drawn.sample(WORDS[label], 2), "café" if number % 2 else "größe", name]
        drawn.shuffle(words)
        made.append((" ".join(words), label))
    return made


def _written(path: Path, rows: Rows) -> None:
    lines = [
        json.dumps({"text": text, "note": f"{text} (seen)", "label": label}, ensure_ascii=False) for text, label in rows
    ]
    path.write_text("\n".join(lines), "utf-8")


def _charged(drawn: random.Random, folder: Path) -> tuple[Small, Path, dict[str, list[tuple[str, str]]]]:
    """Three sites, whose records a run trained on; their homes; and the records."""
    made, sites = Small(folder), folder / "sites"
    held = {name: rows_of(drawn, name) for name in MEMBERS}
    for name, rows in held.items():
        _written(folder / f"{name}.jsonl", rows)
    loaded = federation_file.load(_file(made, ""))
    for name in MEMBERS:
        found, home = parties.records_of(loaded, name), Home.at(sites / name, MemberId(name), lambda: 0)
        tokens = tiny_model().forms(found.train, loaded.file.training.max_tokens)
        charged_records.remember(home, name, found.forms | tokens)
        home.engine.dispose()
    return made, sites, held


@lru_cache(maxsize=1)
def tiny_model() -> SharedModel:
    """The model of `tests.support.small`, loaded once."""
    with TemporaryDirectory() as folder:
        small.save_model(Path(folder) / "model")
        given = federation_file.load(Small(Path(folder)).file())
        return parties.load_model(given)


def _file(made: Small, tag: str, **data: Any) -> Path:  # noqa: ANN401 - fields of a file
    members = [
        {"name": name, "region": "here", "dataset": f"{name}{tag}", "data": {"file": f"{name}.jsonl"}}
        for name in MEMBERS
    ]
    return made.file(f"federation{tag}.yaml", members=members, data={"text": "text", "label": "label", **data})


def brought_back(made: Small, sites: Path, path: Path) -> Outcome:
    """What a second run comes to."""
    try:
        made.run(made.folder / "run", sites, path)
    except OperatorFault as fault:
        return Outcome(succeeded=False, stopped_by=RENAMED if "that were charged to" in str(fault) else "documents")
    return Outcome(succeeded=True, stopped_by="")


BY_FILE: Sequence[Mapping[str, Any]] = (
    {"replace": [{"pattern": "$", "with": " "}]},
    {"replace": [{"pattern": "^", "with": "news: "}]},
    {"replace": [{"pattern": "(?<=[a-z])(?=[a-z])", "with": "\u200d"}]},
    {"replace": [{"pattern": "a", "with": "\u0430"}]},
    {"replace": [{"pattern": "[aeiou]", "with": ""}]},
    {"encoding": "latin1"},
    {"encoding": "cp1252", "replace": [{"pattern": "a", "with": "A"}]},
    {"text": "note"},
    {"labels": {"bad": "good", "good": "bad"}},
    {"share": "1/2", "heldout": 0},
)


def renamed_by_the_file(number: int, folder: Path) -> Outcome:
    """The federation's file gives the data sets new names, and has every text read or written in another way."""
    drawn = random.Random(f"file {number}")  # noqa: S311 - trials that can be repeated
    made, sites, _ = _charged(drawn, folder)
    told = BY_FILE[number % len(BY_FILE)]
    return brought_back(made, sites, _file(made, "-new", **told))


BY_SITE: Sequence[Callable[[str], str]] = (
    str.upper,
    lambda text: unicodedata.normalize("NFKD", text),
    "\u200b".join,
    lambda text: text.replace(" ", "\u00a0"),
    lambda text: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
    lambda text: f"  {text.replace(' ', '   ')}",
    lambda text: text.replace("a", "a\u00ad") + "\ufe0f",
    lambda text: text.replace("café", "xylophone").replace("größe", "quartz"),  # words the model does not know
)


def rewritten_at_the_site(number: int, folder: Path) -> Outcome:
    """The site's files come back under new names: every text rewritten so that it reads alike, some among new ones."""
    drawn = random.Random(f"site {number}")  # noqa: S311
    made, sites, held = _charged(drawn, folder)
    change, kept = BY_SITE[number % len(BY_SITE)], drawn.choice([1.0, 0.3])
    for name, rows in held.items():
        some = [(change(text), drawn.choice(sorted(WORDS))) for text, _ in rows if drawn.random() < kept]
        _written(folder / f"{name}.jsonl", [*some, *rows_of(drawn, f"new {name}")])
    return brought_back(made, sites, _file(made, "-new", heldout=0))


# Characters that are drawn as nothing, or as a blank: one between letters, or in a blank's place.
UNDRAWN: Sequence[str] = (
    "\U000e0100", "\u2800", "\U00016fe4", "\U0001d159", "\u2009", "\u034f", "\U000e0041", "\u3164", "\U00013441",
    "\ue000", "\ufffc", "\ufdd0",
)  # fmt: skip


def filled_with_what_is_not_drawn(number: int, folder: Path) -> Outcome:
    """The site's files come back under new names, with characters among their letters that nobody sees."""
    drawn, mark = random.Random(f"undrawn {number}"), UNDRAWN[number % len(UNDRAWN)]  # noqa: S311
    made, sites, held = _charged(drawn, folder)
    ways: Sequence[Callable[[str], str]] = (
        lambda text: text.replace("a", f"a{mark}").replace("e", f"{mark}e"),
        lambda text: text.replace(" ", mark),
        lambda text: mark.join(unicodedata.normalize("NFD", text)),  # between a letter and its accent too
    )
    change = drawn.choice(ways)
    for name, rows in held.items():
        _written(folder / f"{name}.jsonl", [(change(text), drawn.choice(sorted(WORDS))) for text, _ in rows])
    return brought_back(made, sites, _file(made, "-new", heldout=0))


def cut_to_the_same_tokens(number: int, folder: Path) -> Outcome:
    """Texts come back that differ only behind the token at which every text is cut."""
    drawn = random.Random(f"cut {number}")  # noqa: S311
    made, sites, held = _charged(drawn, folder)
    long = {name: [(f"{text} {' '.join(FILLER)}", label) for text, label in rows] for name, rows in held.items()}
    for name, rows in long.items():
        _written(folder / f"{name}.jsonl", rows)
        found = parties.records_of(federation_file.load(_file(made, "")), name)
        home = Home.at(sites / name, MemberId(name), lambda: 0)
        charged_records.remember(home, name, tiny_model().forms(found.train, 16))
        home.engine.dispose()
        _written(folder / f"{name}.jsonl", [(f"{text} {drawn.randrange(10**9)}", label) for text, label in rows])
    return brought_back(made, sites, _file(made, "-new"))


# One row that moves others.

SELECTED: Sequence[Mapping[str, Any]] = (
    {},
    {"share": "1/4"},
    {"partition": {"members": 4, "index": 1, "dirichlet": 1, "seed": 1, "at_least": 1}},
    {"share": "1/2", "partition": {"members": 2, "index": 0, "dirichlet": "1/2", "seed": 3, "at_least": 1}},
    {"replace": [{"pattern": r"\d", "with": "#"}]},
    {"heldout": 0.5, "labelled": "1/2", "unlabelled": "keep"},
)


def one_row_moves_others(number: int, folder: Path) -> Outcome:
    """Somebody whose row is in a file chooses its text, label and place so that many rows are in or out with it."""
    drawn = random.Random(f"row {number}")  # noqa: S311
    told = {"file": "rows.jsonl", "heldout": 0, **SELECTED[number % len(SELECTED)]}
    rows = [(f"message number {n} says @{n % 7}", ("bad", "good")[n % 2]) for n in range(drawn.randint(100, 400))]

    def trained(given: Rows) -> Counter[Record]:
        _written(folder / "rows.jsonl", given)
        try:
            return Counter(load(DataSource.model_validate(told), folder, ("bad", "good")).train)
        except OperatorFault:  # nothing is left to train on
            return Counter()

    before, worst = trained(rows), 0
    for attempt in range(8):
        again = drawn.choice(rows)[0]
        text = drawn.choice([f"one more {attempt}", again, again.replace("1", "2")])
        at = drawn.choice([0, len(rows), drawn.randrange(len(rows))])
        after = trained([*rows[:at], (text, drawn.choice(["bad", "good"])), *rows[at:]])
        worst = max(worst, ((before - after) + (after - before)).total())
    return Outcome(worst > 1, "one row is at most one record")


def one_text_trained_on_often(number: int, folder: Path) -> Outcome:
    """Somebody stands in a file under many names that `replace`, or the cut at the last token, makes one."""
    drawn = random.Random(f"often {number}")  # noqa: S311
    many, said = drawn.randint(5, 50), " ".join(drawn.sample(FILLER, 6))
    if number % 2:
        rows, told = [(f"@user{n} {said}", "good") for n in range(many)], [{"pattern": r"@\w+", "with": "@user"}]
    else:
        rows, told = [(f"{said} {' '.join(FILLER)} {n}", "good") for n in range(many)], []
    _written(folder / "rows.jsonl", [*rows, ("my bag", "bad")])
    source = DataSource.model_validate({"file": "rows.jsonl", "heldout": 0, "replace": told})
    given = tiny_model().distinct(load(source, folder, ("bad", "good")).train, 8)  # what a step samples from
    return Outcome(len(given) != 2, "one text is one record")


def one_row_ends_it(number: int, folder: Path) -> Outcome:
    """Somebody looks whether a site takes part at all: it does, or does not, by one row of its file."""
    drawn = random.Random(f"ends {number}")  # noqa: S311
    rows = [(f"message {drawn.randrange(10**6)}", ("bad", "good")[n % 2]) for n in range(drawn.randint(2, 30))]
    told = {"file": "rows.jsonl", "heldout": drawn.choice([0.01, 0.2, 0.9])}
    ends = []
    for without in (None, *range(len(rows))):
        _written(folder / "rows.jsonl", [row for place, row in enumerate(rows) if place != without])
        try:
            found = load(DataSource.model_validate(told), folder, ("bad", "good"))
        except OperatorFault as fault:
            if "to train on" in fault.what:  # a file without any record to train on takes part in nothing
                continue
            ends.append(fault.what)
        else:
            ends.append("")
            assert found.train
    return Outcome(len(set(ends)) > 1 or any(ends), "a source is refused by its description")


# A plan that calls the site's model otherwise.


def another_name(number: int, folder: Path) -> Outcome:
    """The coordinator writes the name that a policy lists beside the digest of what is loaded, or the other way."""
    drawn = random.Random(f"name {number}")  # noqa: S311
    field = Field(("a", "b", "c", "d"), rounds=1, threshold=3, min_cohort=3, colluding=1)
    field.prepare(drawn, folder, 1, POLICY.replace('"sha256:{model}"', "approved, m"))
    own, other = MODEL.digest, Hash(drawn.randbytes(32))
    names = (
        ("approved", own),
        ("approved", other),
        ("m", other),
        (f"sha256:{own.hex()}", own),
        ("m ", own),
        ("M", own),
    )
    model = Model(*names[number % len(names)])

    def attempt(frame: m.Frame) -> m.Frame | None:
        return proposed(frame, model=model) if frame.envelope.receipt.kind == "Propose" else None

    field.attempt = attempt
    field.play()
    assert field.tried is not None, "a plan was proposed"
    with field.home.transaction() as conn:
        reserved = [leaf.entry for leaf in store.read(conn, field.home.identity.public)[1]]
    field.home.engine.dispose()
    trained = any(isinstance(each, Reserved) and each.plan.model == model for each in reserved)
    return Outcome(trained or field.tried.answer != "refused", ", ".join(field.tried.names()))


ATTEMPTS = (
    Attempt(
        "a file of the federation renames data sets and has their texts read or written otherwise", renamed_by_the_file
    ),
    Attempt("records come back under another name, rewritten so that they read alike", rewritten_at_the_site),
    Attempt("records come back with characters that nobody sees among their letters", filled_with_what_is_not_drawn),
    Attempt("records come back under another name, changed behind the last token", cut_to_the_same_tokens),
    Attempt("one row is chosen so that many others are trained on or not", one_row_moves_others),
    Attempt("one row decides whether a site takes part", one_row_ends_it),
    Attempt("one text stands in a file under many names to be trained on often", one_text_trained_on_often),
    Attempt("a plan calls the site's model by a name that the policy allows", another_name),
)
