"""SITE documents: what is written is read back, every fault names its line and what would do, editors know the fields."""

from __future__ import annotations

import copy
import json
import random
from fractions import Fraction
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audits.budget import fuzz
from securefl.documents import emit, federation_file, site_file, strict, suite_file
from securefl.documents.data_source import DataSource
from securefl.documents.strict import Rational
from securefl.errors import OperatorFault
from securefl.home.introduced import Introduced
from securefl.shown import hidden
from securefl.simulation import site_documents
from securefl.simulation.layout import SiteLayout
from securefl.simulation.site_documents import Roster
from securefl.site import joining
from securefl.terms import MemberId, Participant, PublicKey
from securefl.terms.parties import COORDINATOR, CUSTODIAN

ROOT = Path(__file__).parents[2]


def key(number: int) -> str:
    return f"{number:064x}"


MEMBERS = {"north": {"key": key(1), "region": "here"}, "south": {"key": key(2), "region": "there"}}
TRUST = {
    "coordinator": key(9),
    "members": MEMBERS,
    "task": {"kind": "classification", "labels": ["bad", "good"]},
    "adapter": {"targets": ["query"], "rank": 4},
    "max_tokens": 16,
}
MEMBER = {
    "securefl_site": 1,
    "name": "north",
    "region": "here",
    "model": "./model",
    "data": {"file": "north.csv"},
    "federations": {"small": TRUST},
}
CUSTODIAN_DOCUMENT = {
    "securefl_site": 1,
    "name": "custodian",
    "federations": {
        "small": {"coordinator": key(9), "custodian": key(8), "members": MEMBERS, "protection": "ckks"},
    },
}
INSIDE = {
    "name": "north-itself", "home": "coordinator", "rounds": 2, "protection": "masking",
    "members": {"a": {"key": key(3), "region": "here"}, "b": {"key": key(4), "region": "here"}},
}  # fmt: skip


def changed(base: dict, **changes) -> dict:
    """The document with other fields; nested keys as ``federations__small__task``; None takes a field away."""
    made = copy.deepcopy(base)
    for name, value in changes.items():
        *outer, last = name.split("__")
        place = made
        for part in outer:
            place = place.setdefault(part, {})
        if value is None:
            del place[last]
        else:
            place[last] = value
    return made


GOOD = {
    "a member": MEMBER,
    "a custodian": CUSTODIAN_DOCUMENT,
    "a member that trusts nobody yet": changed(MEMBER, federations={}),
    "a member that hides that it owns no records": changed(MEMBER, data=None, without_records=True),
    "a member that is a federation": changed(MEMBER, data=None, subfederation=INSIDE),
    "a model that is elsewhere": changed(MEMBER, model={"name": "acme/base", "at": "./model", "engine": "opacus"}),
    "limits": changed(
        MEMBER,
        limits={
            "losses": ["own-label"], "sharing": [], "learning_rate": {"at_least": "1/100", "at_most": 0.5},
            "micro_batch": {"at_most": 32}, "tokens": {"at_most": 4096}, "memory": {"at_most": 1_000_000_000},
        },
    ),
    "a store": changed(MEMBER, store="postgresql+psycopg://user:word@host/db", dataset="letters", home="elsewhere"),
    "two federations": changed(MEMBER, federations__large=changed(TRUST, coordinator=key(7))),
    "a probe": changed(MEMBER, federations__small__probe=[{"text": "so late", "label": "bad"}]),
}  # fmt: skip

BAD = {
    "another document": ({"securefl_policy": 1}, "says securefl_policy, not securefl_site"),
    "no document": ({"name": "north"}, "no `securefl_site` in it; give a SITE document"),
    "another version": (changed(MEMBER, securefl_site=2), ":1: securefl_site: found 2"),
    "an unknown key": (changed(MEMBER, regoin="here"), "regoin: unknown key; did you mean `region`?"),
    "an unknown limit": (changed(MEMBER, limits={"microbatch": {"at_most": 1}}), "did you mean `micro_batch`?"),
    "no region": (changed(MEMBER, region=None), "region: missing; add `region`"),
    "no model": (changed(MEMBER, model=None), "model: missing; add `model`"),
    "no records": (changed(MEMBER, data=None), "data: missing; add `data`, or `subfederation`"),
    "records beside a federation": (changed(MEMBER, subfederation=INSIDE), "subfederation: beside `data`"),
    "records of one who has none": (changed(MEMBER, without_records=True), "without_records: beside `data`"),
    "a coordinator": (changed(MEMBER, name="coordinator"), "a coordinator has no SITE document"),
    "a key that is none": (changed(MEMBER, federations__small__coordinator="ab"), "federations.small.coordinator: found 'ab'"),
    "one key of two": (
        changed(MEMBER, federations__small__members__south__key=key(1)),
        "members.south.key: found the key 0000000000000000..., which is north's",
    ),
    "a member's key as the coordinator's": (
        changed(MEMBER, federations__small__coordinator=key(1)),
        "which is coordinator's; write north's own",
    ),
    "not among the members": (changed(MEMBER, name="west"), "members: west is not among north, south; add it"),
    "another region": (changed(MEMBER, region="moon"), "region: found 'here'; `region` above says 'moon'"),
    "one member alone": (
        changed(MEMBER, federations__small__members={"north": MEMBERS["north"]}),
        "members: found 1; write at least 2",
    ),
    "no task": (changed(MEMBER, federations__small__task=None), "task: missing; add `task`"),
    "nothing read": (changed(MEMBER, federations__small__max_tokens=None), "max_tokens: missing"),
    "a label of nobody": (
        changed(MEMBER, federations__small__probe=[{"text": "so late", "label": "worse"}]),
        "probe: found the label 'worse'",
    ),
    "a member that opens": (changed(MEMBER, federations__small__protection="ckks"), "protection: of a custodian alone"),
    "a custodian with records": (changed(CUSTODIAN_DOCUMENT, data={"file": "x.csv"}), "a custodian has no `data`"),
    "a custodian that trains": (
        changed(CUSTODIAN_DOCUMENT, federations__small__max_tokens=16),
        "max_tokens: a custodian trains nothing",
    ),
    "a custodian of masks": (
        changed(CUSTODIAN_DOCUMENT, federations__small__protection="masking"),
        "protection: found masking; it has no custodian: write ckks or bfv",
    ),
    "a custodian without a key": (
        changed(CUSTODIAN_DOCUMENT, federations__small__custodian=None),
        "custodian: missing; add `custodian`",
    ),
    "a custodian below that is not named": (
        changed(MEMBER, data=None, subfederation=changed(INSIDE, protection="ckks")),
        "subfederation.custodian: missing; add the key",
    ),
    "rates between nothing": (
        changed(MEMBER, limits={"learning_rate": {"at_least": 1, "at_most": 0.5}}),
        "no number is between them",
    ),
    "a loss of nobody": (changed(MEMBER, limits={"losses": ["mine"]}), "limits.losses.0: found 'mine'"),
    "a member called custodian": (
        changed(MEMBER, federations__small__members__custodian={"key": key(6), "region": "here"}),
        "no member can be called custodian",
    ),
    "data with a limit": (changed(MEMBER, data={"file": "x.csv", "limit": 3}), "write `share: 1/10`"),
}  # fmt: skip


def read(value: dict) -> site_file.Site:
    return site_file.of(strict.parse(emit.text_of(value), "SITE.yaml"), Path("SITE.yaml"))


# Laws.

TEXT = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda text: hidden(text) is None)
FRACTION = st.builds(
    lambda top, twos, fives: Fraction(top, 2**twos * 5**fives), st.integers(-(10**6), 10**6), st.integers(0, 9),
    st.integers(0, 9),
) | st.builds(Fraction, st.integers(1, 10**17), st.integers(1, 10**17))  # fmt: skip
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(TEXT, VALUE, min_size=1, max_size=4))
def test_what_is_written_is_read_back(value) -> None:
    assert strict.parse(emit.text_of(value, "one line\nand another"), "SITE.yaml").value == value


@given(FRACTION)
def test_a_number_is_written_exactly(number: Fraction) -> None:
    from pydantic import TypeAdapter

    found = strict.parse(emit.text_of({"rate": number}), "SITE.yaml").value["rate"]
    assert TypeAdapter(Rational).validate_python(found) == number


SOURCES = st.fixed_dictionaries(
    {"file": TEXT.filter(bool)},
    optional={
        "labels": st.dictionaries(TEXT, TEXT, max_size=3),
        "contains": TEXT.filter(bool),
        "unlabelled": st.sampled_from(["refuse", "keep", "drop"]),
        "labelled": st.sampled_from(["1/3", 0, 1, 0.25]),
        "share": st.sampled_from(["1/3", 1, 0.125]),
        "replace": st.lists(
            st.fixed_dictionaries({"pattern": st.sampled_from(["@\\w+", "\\s", "[a-c]+"]), "with": TEXT}), max_size=2
        ),
        "where": st.dictionaries(
            TEXT,
            TEXT | st.lists(TEXT, max_size=2) | st.fixed_dictionaries({}, optional={"from": st.integers(0, 9), "to": st.integers(0, 9)}),
            max_size=2,
        ),
        "heldout": st.floats(0, 0.99),
        "partition": st.fixed_dictionaries(
            {"members": st.just(4), "index": st.integers(0, 3), "dirichlet": st.sampled_from([1, "1/3", 0.5])}
        ),
    },
)  # fmt: skip


@settings(max_examples=60)
@given(SOURCES)
def test_a_data_source_means_the_same_in_a_site_document(written: dict) -> None:
    source = DataSource.model_validate(written)
    assert read(changed(MEMBER, data=emit.fields_of(source))).file.data == source


@given(st.sampled_from(sorted(GOOD)), st.data())
def test_no_field_can_be_taken_from_what_is_needed_or_added_beside_it(name: str, data) -> None:
    value = copy.deepcopy(GOOD[name])
    place = value
    while True:
        inner = [each for each in place.values() if isinstance(each, dict) and each]
        if not inner or data.draw(st.booleans()):
            break
        place = data.draw(st.sampled_from(inner))
    place["surplus-" + data.draw(st.text("abc", min_size=1, max_size=4))] = 1

    with pytest.raises(OperatorFault, match=r"^SITE\.yaml:\d+: "):
        read(value)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_a_spoiled_document_is_a_clear_error_or_a_document_and_runs_nothing(seed: int) -> None:
    text = fuzz.spoiled(random.Random(seed), tuple(emit.text_of(value) for value in GOOD.values()))
    with fuzz.nothing_runs() as ran:
        try:
            assert isinstance(site_file.of(strict.parse(text, "SITE.yaml"), Path("SITE.yaml")), site_file.Site)
        except OperatorFault as fault:
            assert str(fault).startswith("SITE.yaml")
    assert ran == []


# Examples.


@pytest.mark.parametrize("name", GOOD)
def test_a_good_document_is_read(name: str) -> None:
    site = read(GOOD[name])
    assert site.file.name in {"north", "custodian"}
    assert site.account == ("" if site.file.is_custodian else GOOD[name].get("dataset", "north"))


@pytest.mark.parametrize("name", BAD)
def test_a_bad_document_is_refused_with_its_line_and_what_would_do(name: str) -> None:
    value, told = BAD[name]
    with pytest.raises(OperatorFault) as caught:
        read(value)
    assert told in str(caught.value)
    assert str(caught.value).startswith("SITE.yaml:")


def test_a_third_of_the_documents_are_bad() -> None:
    assert len(BAD) * 3 >= len(GOOD) + len(BAD)


def test_a_fault_names_the_line_it_is_on() -> None:
    text = emit.text_of(changed(MEMBER, federations__small__members__south__key=key(1)))
    line = text.decode().splitlines().index("      south:") + 2
    with pytest.raises(OperatorFault, match=f"^SITE.yaml:{line}: federations.small.members.south.key"):
        site_file.of(strict.parse(text, "SITE.yaml"), Path("SITE.yaml"))


def test_the_schema_takes_good_documents_and_no_unknown_key() -> None:
    schema = json.loads(site_file.schema_text())
    for value in GOOD.values():
        jsonschema.validate(value, schema)
    for value in (changed(MEMBER, regoin="here"), changed(MEMBER, federations__small__keys=1), changed(MEMBER, name=3)):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(value, schema)


def test_the_document_in_the_readme_is_one() -> None:
    (block,) = [b for b in (ROOT / "README.md").read_text().split("```yaml\n")[1:] if b.startswith("securefl_site")]
    text = block.partition("```")[0]
    for number in range(text.count("KEY")):
        text = text.replace("KEY", f'"{key(number + 1)}"', 1)
    site = site_file.of(strict.parse(text.encode(), "README.md"), Path("README.md"))
    assert (site.file.name, site.account, list(site.file.federations)) == ("north", "letters", ["harbour"])


# Every party of every example.

EXAMPLES = (
    "airlines/federation",
    "carriers/federation",
    "worldlm/tree",
    "worldlm/federation",
    "fewfedweight/federation",
)


def rosters(places: SiteLayout) -> dict:
    """Made-up seats for everybody in a tree, and the policies of its files."""
    from securefl.policy import load as policies

    loaded = places.loaded
    policy = policies.load(loaded.folder / loaded.file.policy)

    def seat(name: str, region: str = "") -> Participant:
        number = int.from_bytes(("/".join((*places.route, name)).encode())[-31:], "big")
        return Participant(MemberId(name), PublicKey(number.to_bytes(32, "big")), region)

    custodian = seat(CUSTODIAN) if loaded.file.protection.scheme.has_custodian else None
    members = tuple(seat(each.name, each.region) for each in loaded.file.members)
    found = {places.route: Roster(policy, Introduced(seat(COORDINATOR), custodian, members), {})}
    for inside in places.insides.values():
        found |= rosters(inside)
    return found


def document(known: dict, places: SiteLayout, name: str) -> dict:
    """What the party's SITE document says, once it took in the roster."""
    own, roster = site_documents.own(known, places, MemberId(name)), known[places.route]
    site = site_documents.read(own, places.of(name))
    trusted = joining.trust_in(site, roster.everybody, site_documents.offered(places))
    return {**own, "federations": {roster.policy.federation: trusted}}


def every(places: SiteLayout):
    yield places
    for inside in places.insides.values():
        yield from every(inside)


def loadeds() -> list:
    found = [federation_file.load(ROOT / "examples" / f"{name}.yaml") for name in EXAMPLES]
    suite = suite_file.load(ROOT / "examples" / "suite" / "federation.yaml")
    return [*found, *(each.loaded for each in suite.tasks.values())]


def test_every_party_of_every_example_has_a_document_that_says_what_the_federations_file_says(tmp_path: Path) -> None:
    seen = 0
    for top in (SiteLayout(each, tmp_path / "sites") for each in loadeds()):
        known = rosters(top)
        for places in every(top):
            file, roster = places.loaded.file, known[places.route]
            for name in (each for each in places.parties if each != COORDINATOR):
                site = read(document(known, places, name)).view()
                _, trust = site.trusted(None)
                assert site.home == places.of(name)
                assert {n: (e.key, e.region) for n, e in trust.members.items()} == {
                    s.member: (s.key.hex(), s.region) for s in roster.everybody.members
                }
                seen += 1
                if name == CUSTODIAN:
                    assert trust.protection == file.protection
                    continue
                member = next(each for each in file.members if each.name == name)
                assert (trust.task, trust.adapter) == (file.task, file.adapter)
                assert trust.probe == file.strategy.probe
                assert trust.max_tokens == top.loaded.file.training.max_tokens
                assert site.account == (member.dataset or member.name)
                source, below = places.loaded.data.get(name), site.file.subfederation
                if below is not None:
                    inside = places.loaded.below[name].file
                    assert (below.rounds, below.strategy, below.protection) == (
                        member.rounds, inside.strategy, inside.protection,
                    )  # fmt: skip
                else:
                    assert source is not None
                    assert site.file.data == source.model_copy(update={"file": site.file.data.file})
    assert seen > 50


def test_no_document_names_another_partys_home_or_the_federations_file(tmp_path: Path) -> None:
    for top in (SiteLayout(each, tmp_path / "sites") for each in loadeds()):
        known = rosters(top)
        homes = {str(places.of(name)): name for places in every(top) for name in places.parties}
        for places in every(top):
            for name in (each for each in places.parties if each != COORDINATOR):
                said = json.dumps(document(known, places, name), default=str)
                own = {str(places.of(name))} | {str(i.of(COORDINATOR)) for n, i in places.insides.items() if n == name}
                assert [home for home in homes if f'"{home}"' in said and home not in own] == []
                assert "federation.yaml" not in said
