"""A federation run by couriers: what they lose, cut, swap, repeat or bring too late changes no result and no ledger."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from securefl import key_files, keys, wire
from securefl.runtime import courier_packages
from securefl.runtime.courier_packages import Manifest, NotCarried, Rule, SignedManifest, Way
from securefl.runtime.couriers import Couriers
from securefl.seams import Failure
from securefl.site.carry import answer_all
from securefl.terms import Hash, MemberId, PublicKey, Refused, Settled, SumOpened
from tests.support.parties import Federation, InOrder, by_couriers, in_process, waiting
from tests.support.walk import lay

NORTH, SOUTH, COORDINATOR = MemberId("north"), MemberId("south"), MemberId("coordinator")
CENTRE, OWN = keys.Identity(keys.Secret(b"c" * 32)), keys.Identity(keys.Secret(b"n" * 32))


@dataclass
class Meddler:
    """What happens to packages on their way: each kind of mishap to each party's, once for each way."""

    how: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    kept: dict[str, list[Path]] = field(default_factory=dict)

    def __call__(self, name: str, medium: Path, to: Path) -> None:
        with self.lock:
            way = "back" if to.parent.name == "from" else "there"
            before = self.kept.setdefault(f"{way} {name}", [])
            before.append(Path(shutil.copytree(medium, medium.parent.parent / f"{way}-{len(before)}" / medium.name)))
            to.mkdir(parents=True, exist_ok=True)
            if way == "back":
                self.back(medium, to, before)
            elif len(before) == 1:
                self.there(name, medium)

    def back(self, medium: Path, to: Path, before: list[Path]) -> None:
        if self.how == "twice":
            shutil.copytree(medium, to / f"{medium.name}-again")
        elif self.how == "replayed":
            for each in before[:-1]:
                lay(each, to)

    def there(self, name: str, medium: Path) -> None:
        frame = medium / courier_packages.FRAME
        if self.how == "truncated":
            frame.write_bytes(frame.read_bytes()[:-7])
        elif self.how == "altered":
            frame.write_bytes(frame.read_bytes()[:-1] + b"!")
        elif self.how == "emptied":
            frame.unlink()
        elif self.how == "swapped":
            others = [each[0] for key, each in self.kept.items() if key not in (f"there {name}", f"back {name}")]
            for each in medium.iterdir() if others else ():
                shutil.copy(others[0] / each.name, each)


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The same federation, in one process."""
    federation = Federation(tmp_path_factory.mktemp("calm"))
    with in_process(federation) as carrier:
        end = federation.drive(InOrder(carrier), 2)
    return end, federation.ledgers()


REFUSED = {"truncated": Rule.TRUNCATED, "altered": Rule.ALTERED, "emptied": Rule.TRUNCATED, "swapped": Rule.MISDIRECTED}


@pytest.mark.parametrize("how", ["calm", "twice", "replayed", *REFUSED])
def test_what_happens_to_a_package_on_its_way_changes_no_result_and_no_ledger(how: str, calm, tmp_path: Path) -> None:
    expected, ledgers = calm
    federation, told, meddler = Federation(tmp_path), [], Meddler(how)
    with by_couriers(federation, meddler, told) as carrier:
        end = federation.drive(InOrder(carrier), 2)
    assert (end.outcome, end.course.state) == ("finished", expected.course.state)
    assert federation.ledgers() == ledgers
    if how in REFUSED:
        assert told, "it was refused"
        assert all(REFUSED[how].value in each for each in told), told
    else:
        assert told == []


def test_a_member_whose_courier_comes_too_late_is_left_out_and_is_back_in_the_next_round(tmp_path: Path) -> None:
    """Its package arrives once its round is over: the answer is for a request that nobody asks any more."""
    federation, gate, held = Federation(tmp_path), threading.Event(), []

    def meddle(name: str, medium: Path, to: Path) -> None:
        if name == "b" and to.parent.name == "from":
            held.append(medium)
            if len(held) == 2:  # its acceptance came; its keys for round 1 are late
                gate.wait(60)

    class Late:
        def __init__(self, inner: Couriers) -> None:
            self.inner, self.asked = inner, 0

        def exchange(self, outbound, patience):
            asked = list(outbound)
            self.asked += 1
            yield from self.inner.exchange(asked, waiting(1.5 if self.asked == 2 else 60))
            if self.asked == 2:
                gate.set()

    with by_couriers(federation, meddle) as carrier:
        end = federation.drive(Late(carrier), 2)
    assert end.outcome == "finished", end.why
    entries = federation.ledgers()
    silent = [each for each in entries["coordinator"] if isinstance(each, Refused) and each.what == "answer"]
    assert [each.reasons[0].value for each in silent] == ["b"]
    first, second = [each.survivors for each in entries["coordinator"] if isinstance(each, SumOpened)]
    assert (first, second) == (("a", "c"), ("a", "b", "c"))
    assert len([each for each in entries["a"] if isinstance(each, Settled)]) == 2


def a_package(folder: Path, way: Way = Way.ANSWERED, sender: MemberId = NORTH, to: MemberId = COORDINATOR,
              identity: keys.Identity = OWN, data: bytes = b"+frame") -> Path:  # fmt: skip
    return courier_packages.write(folder, identity, way, Hash(b"t" * 32), sender, to, data)


def replaced(package: Path, **fields: object) -> None:
    signed: SignedManifest = wire.decode((package / courier_packages.MANIFEST).read_bytes(), SignedManifest)
    changed = Manifest(**{**{name: getattr(signed.manifest, name) for name in Manifest.__slots__}, **fields})
    (package / courier_packages.MANIFEST).write_bytes(wire.encode(SignedManifest(changed, signed.signatures)))


def a_link(package: Path) -> None:
    (package / courier_packages.FRAME).unlink()
    (package / courier_packages.FRAME).symlink_to("/etc/hostname")


def a_pipe(package: Path) -> None:
    (package / courier_packages.FRAME).unlink()
    os.mkfifo(package / courier_packages.FRAME)


SPOILT: dict[str, tuple[Callable[[Path], object], Rule]] = {
    "no manifest": (lambda p: (p / "manifest").unlink(), Rule.TRUNCATED),
    "a manifest of noise": (lambda p: (p / "manifest").write_bytes(b"\xff" * 40), Rule.FORM),
    "a manifest without end": (lambda p: (p / "manifest").write_bytes(bytes(1 << 20)), Rule.FORM),
    "another ticket": (lambda p: replaced(p, ticket=Hash(b"u" * 32)), Rule.SIGNATURE),
    "another sender": (lambda p: replaced(p, sender=SOUTH), Rule.MISDIRECTED),
    "the wrong way": (lambda p: replaced(p, way=Way.ASKED), Rule.MISDIRECTED),
    "no frame": (lambda p: (p / "frame").unlink(), Rule.TRUNCATED),
    "half a frame": (lambda p: (p / "frame").write_bytes(b"+fr"), Rule.TRUNCATED),
    "another frame": (lambda p: (p / "frame").write_bytes(b"+FRAME"), Rule.ALTERED),
    "a longer frame": (lambda p: (p / "frame").write_bytes(b"+frame and more"), Rule.ALTERED),
    "a link": (a_link, Rule.FORM),
    "a pipe": (a_pipe, Rule.FORM),
    "a folder for a manifest": (lambda p: a_folder(p / "manifest"), Rule.FORM),
    "a folder for a frame": (lambda p: a_folder(p / "frame"), Rule.FORM),
    "more than is read here": (lambda p: (p / "frame").write_bytes(bytes((1 << 16) + 1)), Rule.FORM),
}  # fmt: skip


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("ticket", [b"", b"t", b"t" * 32])
def test_a_request_whose_ticket_is_not_its_own_is_refused_and_nothing_is_removed(tmp_path: Path, ticket: bytes) -> None:
    """A signed manifest that names a folder of the site's instead of a request."""
    into = tmp_path / "back"
    (into / "kept").mkdir(parents=True)
    (into / "kept" / "thesis.txt").write_text("years of work")
    package = courier_packages.write(tmp_path / "to", CENTRE, Way.ASKED, Hash(b"x" * 32), COORDINATOR, NORTH, b"what?")
    manifest = Manifest(Way.ASKED, Hash(ticket), COORDINATOR, NORTH, Hash(hashlib.sha256(b"what?").digest()), 5)
    signed = courier_packages.signed_by(CENTRE, manifest)
    (package / "manifest").write_bytes(wire.encode(signed))
    (handled,) = answer_all(Silent(), OWN, NORTH, (CENTRE.public,), package, into, most=1 << 16)
    assert handled.refused is not None
    assert handled.refused.rule is Rule.FORM
    assert (into / "kept" / "thesis.txt").read_text() == "years of work"


def test_a_package_is_taken_in_by_whoever_knows_any_of_its_senders_latest_keys(tmp_path: Path) -> None:
    every = [keys.Identity(keys.Secret(bytes([n]) * 32)) for n in range(courier_packages.MOST_SIGNATURES + 1)]
    whole = every[-1]
    whole.former = tuple(reversed(every[:-1]))
    place = a_package(tmp_path, identity=whole)

    def taken(known: keys.Identity) -> bool:
        try:
            courier_packages.read(place, Way.ANSWERED, COORDINATOR, {NORTH: (known.public,)}, 1 << 10)
        except NotCarried as fault:
            assert fault.rule is Rule.SIGNATURE
            return False
        return True

    assert [taken(each) for each in every] == [False] + [True] * courier_packages.MOST_SIGNATURES
    assert not taken(CENTRE)
    signed: SignedManifest = wire.decode((place / courier_packages.MANIFEST).read_bytes(), SignedManifest)
    more = SignedManifest(signed.manifest, (*signed.signatures, signed.signatures[0]))
    (place / courier_packages.MANIFEST).write_bytes(wire.encode(more))
    with pytest.raises(NotCarried, match="9 signatures"):
        courier_packages.read(place, Way.ANSWERED, COORDINATOR, {NORTH: (whole.public,)}, 1 << 10)


class Silent:
    def handle(self, data: bytes) -> bytes:
        raise AssertionError("nothing reaches it")


def test_a_package_takes_the_place_of_a_package_alone(tmp_path: Path) -> None:
    there = courier_packages.place_of(tmp_path, Hash(b"x" * 32))
    there.mkdir()
    (there / "thesis.txt").write_text("years of work")
    with pytest.raises(OSError, match="not empty"):
        courier_packages.write(tmp_path, CENTRE, Way.ASKED, Hash(b"x" * 32), COORDINATOR, NORTH, b"what?")
    assert (there / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("case", SPOILT)
def test_a_package_that_is_not_what_its_sender_wrote_is_refused_by_name(case: str, tmp_path: Path) -> None:
    known: dict[MemberId, tuple[PublicKey, ...]] = {NORTH: (OWN.public,)}
    package = a_package(tmp_path)
    manifest, data = courier_packages.read(package, Way.ANSWERED, COORDINATOR, known, 1 << 16)
    assert (manifest.sender, data) == (NORTH, b"+frame")
    spoil, rule = SPOILT[case]
    spoil(package)
    with pytest.raises(NotCarried) as refused:
        courier_packages.read(package, Way.ANSWERED, COORDINATOR, known, 1 << 16)
    assert refused.value.rule is rule


def test_what_nobody_asked_another_signed_or_another_party_brought_is_waited_past(tmp_path: Path) -> None:
    told: list[str] = []
    couriers = Couriers(tmp_path, CENTRE, {NORTH: lambda: (OWN.public,)}, look_s=0.01, tell=told.append)
    stranger = keys.Identity(keys.Secret(b"s" * 32))
    a_package(tmp_path / "from" / NORTH, identity=stranger)
    a_package(tmp_path / "from" / "north-again", data=b"+late")
    a_package(tmp_path / "from" / NORTH / ".half")
    asked = [(NORTH, b"what?"), (SOUTH, b"who?")]
    answers = dict(couriers.exchange(asked, waiting(0.2)))
    assert isinstance(answers[NORTH], Failure)
    assert "silent" in answers[NORTH].why
    assert isinstance(answers[SOUTH], Failure)
    assert "gone" in answers[SOUTH].why
    assert len(told) == 1, "said once, however often it is looked at"
    assert Rule.SIGNATURE.value in told[0]
    assert list((tmp_path / "to" / NORTH).iterdir()) == [], "nothing is left that a courier would take in vain"


@contextmanager
def with_no_right_to_pass() -> Iterator[Path]:
    """A folder, and a user whom its rights bind: not root."""
    user, folder = os.geteuid(), Path(tempfile.mkdtemp())
    if user == 0:
        os.chown(folder, 65534, -1)
        os.seteuid(65534)
    try:
        yield folder
    finally:
        os.seteuid(user)
        shutil.rmtree(folder)


def a_note(place: Path) -> Callable[[], object]:
    place.rmdir()
    place.write_text("taken, back on Monday")
    return place.unlink


def its_couriers_own(place: Path) -> Callable[[], object]:
    place.chmod(0o000)
    return lambda: place.chmod(0o700)


def nobodys_to_write(place: Path) -> Callable[[], object]:
    place.chmod(0o500)
    return lambda: place.chmod(0o700)


@pytest.mark.parametrize(
    ("way", "spoil"),
    [("to", a_note), ("to", its_couriers_own), ("to", nobodys_to_write), ("from", its_couriers_own)],
)
@pytest.mark.parametrize("mended", [False, True])
def test_what_one_members_courier_does_to_its_folder_is_told_once_and_keeps_its_own_package_back_alone(
    way: str, spoil: Callable[[Path], Callable[[], object]], mended: bool
) -> None:
    other, told, again = keys.Identity(keys.Secret(b"o" * 32)), list[str](), list[Callable[[], object]]()

    def tell(what: str) -> None:
        told.append(what)
        if mended:
            again.pop()()
            courier_packages.write(
                folder / "from" / NORTH, OWN, Way.ANSWERED, courier_packages.ticket_of(b"1"), NORTH, COORDINATOR, b"+1"
            )

    with with_no_right_to_pass() as folder:
        couriers = Couriers(folder, CENTRE, {NORTH: lambda: (OWN.public,), SOUTH: lambda: (other.public,)}, 0.01, tell)
        couriers.prepare()
        for each in (folder / "to" / NORTH, folder / "from" / NORTH):
            each.mkdir()
        courier_packages.write(
            folder / "from" / SOUTH, other, Way.ANSWERED, courier_packages.ticket_of(b"2"), SOUTH, COORDINATOR, b"+2"
        )
        again.append(spoil(folder / way / NORTH))
        answers = dict(couriers.exchange([(NORTH, b"1"), (SOUTH, b"2")], waiting(30 if mended else 0.3)))
        for mend in again:
            mend()
    assert answers[SOUTH] == b"2"
    assert answers[NORTH] == b"1" if mended else isinstance(answers[NORTH], Failure)
    assert len(told) == 1
    assert str(folder / way / NORTH) in told[0]


def test_a_package_is_replaced_also_where_something_else_lies_in_it(tmp_path: Path) -> None:
    """A machine that looks at a medium leaves files of its own there."""
    first = a_package(tmp_path)
    (first / ".DS_Store").write_bytes(b"looked at")
    assert a_package(tmp_path, data=b"+again") == first
    known: dict[MemberId, tuple[PublicKey, ...]] = {NORTH: (OWN.public,)}
    assert courier_packages.read(first, Way.ANSWERED, COORDINATOR, known, 1 << 16)[1] == b"+again"
    assert (first / ".DS_Store").exists()
    assert courier_packages.packages_in(tmp_path) == (first,)
    assert [each.name for each in tmp_path.iterdir()] == [first.name]


def test_a_request_keeps_its_ticket_when_it_is_asked_again_and_a_key_file_is_what_signs(tmp_path: Path) -> None:
    identity = key_files.load_or_create(tmp_path / "identity.key")
    assert (
        courier_packages.ticket_of(b"no frame")
        == courier_packages.ticket_of(b"no frame")
        != courier_packages.ticket_of(b"another")
    )
    first = courier_packages.write(tmp_path, identity, Way.ASKED, Hash(b"t" * 32), COORDINATOR, NORTH, b"1")
    again = courier_packages.write(tmp_path, identity, Way.ASKED, Hash(b"t" * 32), COORDINATOR, NORTH, b"22")
    assert first == again
    assert courier_packages.packages_in(tmp_path) == (first,)
