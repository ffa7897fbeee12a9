"""Parts of one file: disjoint, covering, decided by a public seed and the texts; packed files and limits beside them."""

import copy
import gzip

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from securefl.documents import federation_file
from securefl.documents.data_source import DataSource, Partition
from securefl.errors import OperatorFault
from securefl.training.data import load
from securefl.training.partition import Card, deal
from tests.support.small import Small

LABELS = ("neg", "pos")


def cards_of(count, labels=3):
    return [Card(f"text {i}", i % labels, i % 5 == 0) for i in range(count)]


def partition(**more):
    return Partition.model_validate({"members": 4, "index": 0, "dirichlet": 0.5, "at_least": 2, **more})


@given(
    st.integers(60, 300), st.integers(2, 6), st.sampled_from(["0.5", "5", "1000"]), st.integers(0, 2**63 - 1),
    st.integers(1, 8), st.randoms(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_every_record_has_one_owner_whatever_the_others_are(count, members, dirichlet, seed, least, chance):
    cards = cards_of(count)
    asked = partition(members=members, dirichlet=float(dirichlet), seed=seed, at_least=least)
    try:
        owners = deal(cards, asked, 3)
    except OperatorFault as fault:
        assume("records to train on" not in fault.what)
        raise
    assert len(owners) == count
    assert set(owners) == set(range(members))
    for member in range(members):
        mine = [card for card, owner in zip(cards, owners, strict=True) if owner == member]
        assert sum(not card.held for card in mine) >= least
        assert any(card.held for card in mine)
    some = chance.sample(range(count), count - 1)  # another order, and one record less
    try:
        again = deal([cards[i] for i in some], asked, 3)
    except OperatorFault:
        return
    assert list(again) == [owners[i] for i in some]


def test_another_seed_deals_otherwise_and_a_smaller_dirichlet_more_unevenly():
    cards = cards_of(900)
    assert deal(cards, partition(seed=1), 3) == deal(cards, partition(seed=1), 3)
    assert deal(cards, partition(seed=1), 3) != deal(cards, partition(seed=2), 3)

    def skew(dirichlet):
        """The largest share of one label at a member, on average over members and seeds."""
        shares = []
        for seed in range(20):
            owners = deal(cards, partition(dirichlet=dirichlet, seed=seed, at_least=1), 3)
            for member in range(4):
                mine = [card.label for card, owner in zip(cards, owners, strict=True) if owner == member]
                shares.append(max(map(mine.count, range(3))) / len(mine))
        return sum(shares) / len(shares)

    assert skew(0.1) > skew(0.5) > skew(10) > 1 / 3


def test_members_that_cannot_have_enough_are_refused():
    with pytest.raises(OperatorFault, match=r"part \d of 4 has \d+ records to train on, .*; change the seed"):
        deal(cards_of(20), partition(at_least=10), 3)
    with pytest.raises(OperatorFault, match="no draw of dirichlet 0.001 gives each of 9 members"):
        deal(cards_of(20), partition(members=9, dirichlet=0.001), 1)


def test_the_parts_of_a_file_cover_it_and_no_text_is_in_two(tmp_path):
    lines = [f"row {i} @x,{LABELS[i % 2]}" for i in range(400)] + ["row 1 @x,pos", "no handle,pos"]
    (tmp_path / "r.csv").write_text("\n".join(["text,label", *lines]))

    def part(index, **more):
        told = {"members": 5, "index": index, "dirichlet": 0.5, "seed": 3, "at_least": 5}
        found = load(
            DataSource.model_validate({"file": "r.csv", "first_of": ["@x"], "partition": told, **more}),
            tmp_path,
            LABELS,
        )
        return [r.text for r in (*found.train, *found.heldout)]

    everything = [text for index in range(5) for text in part(index)]
    assert sorted(everything) == sorted({line.split(",")[0] for line in lines[:400]})
    few = [text for index in range(5) for text in part(index, share=0.5)]
    assert len(few) == len(set(few))
    assert 150 < len(few) < 250
    assert set(few) < set(everything)


@pytest.mark.parametrize(("name", "head", "row"), [
    ("r.csv.gz", "text,label", "one,pos"), ("r.tsv.gz", "text\tlabel", "one\tpos"),
    ("r.jsonl.gz", "", '{"text": "one", "label": "pos"}'),
])  # fmt: skip
def test_a_packed_file_gives_what_it_holds(tmp_path, name, head, row):
    (tmp_path / name).write_bytes(gzip.compress(f"{head}\n{row}\n".encode()))
    found = load(DataSource.model_validate({"file": name, "heldout": 0}), tmp_path, LABELS)
    assert [(r.text, r.label) for r in found.train] == [("one", 1)]


@pytest.mark.parametrize(
    "spoil", [lambda raw: raw[:-9], lambda raw: b"PK" + raw, lambda raw: raw[:12] + b"\xff" + raw[13:]]
)
def test_a_packed_file_that_is_not_whole_is_refused(tmp_path, spoil):
    (tmp_path / "r.csv.gz").write_bytes(spoil(gzip.compress(b"text,label\n" + b"one and another text,pos\n" * 9)))
    with pytest.raises(OperatorFault, match=r"r.csv.gz: no whole gzip file"):
        load(DataSource.model_validate({"file": "r.csv.gz", "heldout": 0}), tmp_path, LABELS)


@pytest.mark.parametrize("wrong", [
    {"members": 1}, {"index": 4}, {"index": -1}, {"dirichlet": 0}, {"dirichlet": -1}, {"seed": -1}, {"at_least": 0},
    {"colour": "red"},
])  # fmt: skip
def test_a_partition_that_cannot_be_meant_is_refused(wrong):
    with pytest.raises(ValidationError):
        partition(**wrong)


@pytest.mark.parametrize("wrong", [{"deduplicate": False}, {"share": 0}, {"share": 1.5}])
def test_a_source_holds_distinct_texts_and_a_share_of_them(wrong):
    with pytest.raises(ValidationError):
        DataSource.model_validate({"file": "r.csv", **wrong})


def test_a_limit_is_refused_with_what_to_write_instead():
    with pytest.raises(ValidationError, match="a row more would change which other rows are used; write `share: 1/10`"):
        DataSource.model_validate({"file": "r.csv", "limit": 100})


@pytest.mark.parametrize(("shared", "own", "message"), [
    ({"partition": {"dirichlet": 1}}, {"file": "north.csv"}, "the members share one file in parts"),
    ({}, {"file": "north.csv", "partition": {"members": 2, "index": 0, "dirichlet": 1}}, "share one file in parts"),
    ({"partition": {"dirichlet": 1, "index": 0}}, {}, "leave it out: each has a part"),
    ({"partition": {"dirichlet": 0}}, {}, r"odd.yaml:\d+: data.partition: .*above 0"),
    ({"partition": 3}, {}, r"odd.yaml:\d+: data.partition: "),
])  # fmt: skip
def test_a_federations_members_share_one_partition_or_have_none(small: Small, shared, own, message):
    members = [{"name": name, "region": "here", "data": copy.deepcopy(own)} for name in ("north", "south")]
    path = small.file("odd.yaml", data=copy.deepcopy({"file": "north.csv", **shared}), members=members)
    with pytest.raises(OperatorFault, match=message):
        federation_file.load(path)
