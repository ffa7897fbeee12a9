"""Parties on one machine are introduced by the documents that live ones exchange, and by nothing else."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from securefl.documents import federation_file, introduction, site_file
from securefl.documents.introduction import Answer, Invitation, Role, Roster, from_own_hand
from securefl.errors import OperatorFault
from securefl.home import adoption, introduced, peers
from securefl.home.clock import clock
from securefl.policy import load as policies
from securefl.simulation.introduction import descended, found_signatures, home_of, introduce, introduce_tree
from securefl.simulation.layout import SiteLayout
from securefl.site import joining
from securefl.terms import MemberId
from securefl.terms.parties import COORDINATOR, CUSTODIAN
from tests.support.apart import everything
from tests.support.small import MEMBERS, POLICY, Small
from tests.support.trees import Tree

EVERYBODY = {*MEMBERS, CUSTODIAN}


def encrypted(small: Small, name: str, **changes: object) -> Path:
    return small.file(name, protection="masked-ckks", **changes)


def introduced_in(file: Path, sites: Path):
    loaded = federation_file.load(file)
    places, path = SiteLayout(loaded, sites), loaded.folder / loaded.file.policy
    policy = policies.load(path)
    return places, introduce(places, policy, found_signatures(path, policy, unsafe_unsigned=False))


def test_every_home_holds_the_documents_that_its_pins_and_its_site_document_are_by(
    small: Small, tmp_path: Path
) -> None:
    places, made = introduced_in(encrypted(small, "documents.yaml"), tmp_path / "sites")
    rosters = set()
    for name in EVERYBODY:
        home = home_of(places, name)
        roster = introduced.taken_in(home, "small", introduced.ROSTER, Roster)
        own = introduced.taken_in(home, "small", introduced.ANSWER, Answer)
        assert introduced.taken_in(home, "small", introduced.INVITATION, Invitation) is not None
        answers = introduction.answers_of(roster, clock())
        assert own.encoded in {each.encoded for each in answers}
        cards = {each.document.card.name: each.document.card.key.hex() for each in answers}
        assert peers.known(home.path, "small") == {**cards, COORDINATOR: roster.document.card.key.hex()}
        trust = site_file.load(made.documents[MemberId(name)]).file.federations["small"]
        assert {member: each.key for member, each in trust.members.items()} == {n: cards[n] for n in MEMBERS}
        assert (trust.coordinator, trust.custodian) == (roster.document.card.key.hex(), cards[CUSTODIAN])
        rosters.add(roster.encoded)
    assert len(rosters) == 1
    assert [seat.member for seat in made.everybody.members] == list(MEMBERS), "as the file has them"


def test_what_a_simulated_site_trusts_is_what_a_live_one_would_by_the_same_documents(
    small: Small, tmp_path: Path
) -> None:
    places, made = introduced_in(encrypted(small, "alike.yaml"), tmp_path / "sites")
    for name in EVERYBODY:
        simulated = yaml.safe_load(made.documents[MemberId(name)].read_text())
        trusted = simulated.pop("federations")["small"]
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(simulated))
        held = introduced.taken_in(home_of(places, name), "small", introduced.ROSTER, Roster)
        joining.complete(site_file.load(path), from_own_hand(held))
        joined = yaml.safe_load(site_file.joined_at(places.of(name), "small").read_text())
        assert joined == {"securefl_joined": 1, "federation": "small", **trusted}


def test_a_second_start_changes_no_file_of_any_home(small: Small, tmp_path: Path) -> None:
    file, sites = encrypted(small, "twice.yaml"), tmp_path / "sites"
    introduced_in(file, sites)
    before = everything(sites)
    introduced_in(file, sites)
    assert everything(sites) == before


def test_a_home_that_knows_a_party_by_another_key_leaves_all_homes_as_they_were(small: Small, tmp_path: Path) -> None:
    file, sites = small.file("pinned.yaml"), tmp_path / "sites"
    places, _ = introduced_in(file, sites)
    pinned = peers.pinned(places.of("west"), "small")
    pinned.write_text(json.dumps(json.loads(pinned.read_text()) | {"south": "00" * 32}))
    before = everything(sites)
    with pytest.raises(OperatorFault, match="south shows another key than it did before") as fault:
        introduced_in(small.file("pinned.yaml", task__labels=["good", "bad"]), sites)
    assert fault.value.exit_code == 2
    assert everything(sites) == before


def test_a_home_that_would_not_adopt_the_policy_leaves_all_homes_as_they_were(small: Small, tmp_path: Path) -> None:
    sites = tmp_path / "sites"
    places, _ = introduced_in(small.file("first.yaml"), sites)
    second = small.file("second.yaml", policy=POLICY.replace("version: 1", "version: 2"))
    _revoke(home_of(places, "west"), second)
    before = everything(sites)
    with pytest.raises(adoption.approvals.Unapproved, match="revoked"):
        introduced_in(second, sites)
    assert everything(sites) == before


def _revoke(home, file: Path) -> None:
    """This home alone has heard that the policy's author took the signature back."""
    import hashlib

    from securefl import files, keys
    from securefl.policy import approvals

    policy = policies.load(file.parent / yaml.safe_load(file.read_text())["policy"])
    tester = keys.Identity(keys.Secret(hashlib.sha256(b"tester").digest()))
    revoked = approvals.sign(tester, approvals.Kind.REVOCATION, policy, 1, 4_102_444_800)
    path = home.path / adoption.REVOKED / f"{policy.hash.hex()}.json"
    files.folder(path.parent)
    files.write(path, approvals.encode([revoked]))


def test_runs_that_start_at_once_in_the_same_homes_each_have_their_own_offer(small: Small, tmp_path: Path) -> None:
    sites, failed = tmp_path / "sites", list[BaseException]()
    ranks = (1, 2, 3, 4)
    files = {rank: small.file(f"rank-{rank}.yaml", adapter__rank=rank) for rank in ranks}
    found = dict[int, object]()
    introduced_in(files[1], sites)

    def started(rank: int) -> None:
        try:
            for _ in range(3):
                found[rank] = introduced_in(files[rank], sites)[1]
        except BaseException as fault:  # noqa: BLE001
            failed.append(fault)

    _together([lambda rank=rank: started(rank) for rank in ranks])
    assert failed == []
    for rank, made in found.items():
        for path in made.documents.values():
            assert site_file.load(path).file.federations["small"].adapter.rank == rank


def _together(acts: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=each) for each in acts]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


def test_a_parent_answers_as_a_federation_and_its_document_names_its_members(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    loaded = federation_file.load(tree.tree())
    places, path = SiteLayout(loaded, tmp_path / "sites"), loaded.folder / loaded.file.policy
    policy = policies.load(path)
    root = (places, policy, found_signatures(path, policy, unsafe_unsigned=False))
    made = introduce_tree([root, *descended(places, policy, unsafe_unsigned=False)])
    assert set(made) == {(), ("left",), ("right",)}
    for name, names in tree.nodes.items():
        home = home_of(places, name)
        assert introduced.taken_in(home, "top", introduced.ANSWER, Answer).document.card.role is Role.SUBFEDERATION
        site = site_file.load(made[()].documents[MemberId(name)])
        below = made[name,].everybody
        assert {n: each.key for n, each in site.file.subfederation.members.items()} == {
            seat.member: seat.key.hex() for seat in below.members
        }
        assert tuple(seat.member for seat in below.members) == names
