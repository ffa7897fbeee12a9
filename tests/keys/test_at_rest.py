"""Private keys under a passphrase: what lies on the disk gives nothing, and who has the passphrase has everything."""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securefl import files, key_files, passphrases
from securefl.cli.keys import keys_decrypt, keys_encrypt
from securefl.errors import Missing, OperatorFault
from securefl.home import ring
from securefl.home.home import Home
from securefl.home.peers import pin
from securefl.home.rotation import rotate
from securefl.keys import Identity, Secret
from securefl.protection.key_file import KeyFile
from securefl.site import charged_records
from securefl.terms import Closed, MemberId, Participant, PublicKey, RunId

GOOD, OTHER = b"six words that nobody guesses", b"six others that nobody guesses"
WRITTEN = (
    "736563757265666c20656e63727970746564206b657920310a1bb349a642ee81d5120a3261d29a5c49fe6f7c27f4af2d0769"
    "1ef4cd9324aef94ca8bd58636aae5256a73c8a32b25f859cb80b25f2977e7f7bc843035b788d8cc28fc9946f3493a06c8b32"
    "c0"
)
NORTH, RUN = MemberId("north"), RunId(bytes(16))


@pytest.fixture(autouse=True)
def no_source(monkeypatch) -> None:
    for name in (*passphrases.SOURCES.split(", ")[:4], passphrases.CREDENTIALS):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def given_file(tmp_path: Path, monkeypatch) -> Path:
    """This process has the good passphrase, in a file."""
    file = tmp_path / "passphrase"
    file.write_bytes(GOOD + b"\n")
    file.chmod(0o600)
    monkeypatch.setenv(passphrases.FILE, str(file))
    return file


def command(*arguments: str, fds: tuple[int, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "securefl", *arguments],
        env={**os.environ, **environment}, pass_fds=fds, stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip


@settings(max_examples=2, deadline=None)
@given(seed=st.binary(min_size=32, max_size=32), passphrase=st.binary(min_size=12, max_size=64))
def test_whoever_has_the_passphrase_has_the_key_and_the_file_shows_nothing(
    tmp_path_factory, seed: bytes, passphrase: bytes
) -> None:
    path = tmp_path_factory.mktemp("key") / "identity.key"
    data = key_files.encrypted(Secret(seed), passphrase)
    assert seed not in data
    path.write_bytes(data)
    path.chmod(0o600)
    assert key_files.secret(path, passphrase).raw == seed
    for wrong in (passphrase + b"x", passphrase[:-1] + bytes([passphrase[-1] ^ 1])):
        with pytest.raises(OperatorFault, match="does not open the key"):
            key_files.secret(path, wrong)


def test_what_a_process_with_a_passphrase_makes_is_encrypted_and_one_without_it_is_told(
    tmp_path: Path, given_file: Path, monkeypatch
) -> None:
    path = tmp_path / "identity.key"
    public = key_files.load_or_create(path).public
    assert key_files.is_encrypted(path)
    assert key_files.load(path).public == public
    monkeypatch.delenv(passphrases.FILE)
    with pytest.raises(OperatorFault, match="SECUREFL_PASSPHRASE_FILE"):
        key_files.load(path)


def test_a_home_under_a_passphrase_has_no_secret_in_the_clear(tmp_path: Path, given_file: Path) -> None:
    """The states of its machine, with box and masks in them, are under the identity too: the ratchet opens nothing."""
    canary = b"a mask key that nobody may read"
    home = Home.at(tmp_path / "north", NORTH, lambda: 1)
    state = Participant(NORTH, PublicKey(canary.ljust(32)), "EU")
    with home.transaction() as conn:
        home.commit(conn, RUN, [Closed(RUN, "aborted", "")], state)
    seed = key_files.secret(home.path / "identity.key").raw
    KeyFile(home.path / "he.key", home.identity).kept(lambda: canary)
    home.engine.dispose()
    written = {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()}
    assert len(written) >= 5
    assert [path for path, data in written.items() if canary in data or seed in data] == []
    again = Home.at(home.path, NORTH, lambda: 1)
    with again.transaction() as conn:
        assert again.saved(conn, RUN, Participant) == state
    (ratchet,) = home.path.glob("run-*.state")
    slots = ratchet.read_bytes()
    with pytest.raises(Exception, match="altered"), again.transaction() as conn:
        again.live.identity = Identity(Secret(slots[:32]))
        again.saved(conn, RUN, Participant)
    again.engine.dispose()


@pytest.fixture
def typed(monkeypatch) -> list[str]:
    """Somebody sits at the terminal, and types the good passphrase; what was asked is told."""
    asked: list[str] = []
    monkeypatch.setattr(key_files, "COST", 2)
    monkeypatch.setattr(passphrases, "_read_once", {})
    monkeypatch.setattr(passphrases, "getpass", lambda prompt: asked.append(prompt) or GOOD.decode())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    return asked


def in_the_clear(home: Path) -> list[str]:
    """The files of a home that are named as secrets are, and lie in the clear."""
    found = (
        path for path in home.rglob("*") if path.is_file() and (path.suffix == ".key" or path.name[-5:] == ".next")
    )
    return [path.name for path in found if not key_files.is_encrypted(path)]


def test_what_a_home_draws_is_encrypted_as_its_key_is_where_the_passphrase_is_typed_and_it_is_typed_once(
    tmp_path: Path, typed: list[str]
) -> None:
    home = Home.at(tmp_path / "north", NORTH, lambda: 1)
    keys_encrypt(home.path)
    typed.clear()
    charged_records.remember(home, "d", [b"a record"])
    assert in_the_clear(home.path) == []
    pin(home.path, "f", (Participant(NORTH, home.identity.public, "EU"),))
    rotate(home, 10)
    rotate(home, 10)
    home.engine.dispose()
    assert in_the_clear(home.path) == []
    passphrases._read_once.clear()
    typed.clear()
    again = Home.at(home.path, NORTH, lambda: 2)  # two keys before this one
    again.engine.dispose()
    with pytest.raises(OperatorFault, match="charged to 'd'"):
        charged_records.check(again.path, "another", [b"a record"])
    assert typed == [f"Passphrase of {again.path / 'identity.key'}: "]


@pytest.mark.parametrize("given", ["", "identity.key"])
def test_with_the_key_of_a_home_everything_secret_in_it_is_encrypted(
    given: str, tmp_path: Path, typed: list[str]
) -> None:
    home = Home.at(tmp_path / "north", NORTH, lambda: 1)
    charged_records.remember(home, "d", [b"a record"])
    ring.drawn(home.path)
    home.engine.dispose()
    assert sorted(in_the_clear(home.path)) == ["identity.key", "identity.next", "texts.key"]
    keys_encrypt(home.path / given)
    assert in_the_clear(home.path) == []


def test_a_decryption_key_opens_for_its_own_custodian_alone(tmp_path: Path) -> None:
    own, other = Identity(Secret(b"1" * 32)), Identity(Secret(b"2" * 32))
    assert KeyFile(tmp_path / "he.key", own).kept(lambda: b"key") == b"key"
    assert KeyFile(tmp_path / "he.key", own).kept(lambda: b"never made") == b"key"
    with pytest.raises(OperatorFault, match="another party's"):
        KeyFile(tmp_path / "he.key", other).kept(lambda: b"never made")
    data = bytearray((tmp_path / "he.key").read_bytes())
    data[-1] ^= 1
    (tmp_path / "he.key").write_bytes(data)
    with pytest.raises(OperatorFault, match="altered"):
        KeyFile(tmp_path / "he.key", own).kept(lambda: b"never made")


def test_a_served_process_has_its_passphrase_from_a_descriptor_a_file_or_systemd(tmp_path: Path) -> None:
    path, credentials = tmp_path / "identity.key", tmp_path / "credentials"
    path.write_bytes(key_files.encrypted(Secret(b"7" * 32), GOOD))
    path.chmod(0o600)
    credentials.mkdir()
    (credentials / passphrases.CREDENTIAL).write_bytes(GOOD)
    file = tmp_path / "passphrase"
    file.write_bytes(GOOD)
    file.chmod(0o600)
    read, write = os.pipe()
    os.write(write, GOOD + b"\n")
    os.close(write)
    public = Identity(Secret(b"7" * 32)).public.hex()
    ways = (
        ((read,), {passphrases.DESCRIPTOR: str(read)}),
        ((), {passphrases.FILE: str(file)}),
        ((), {passphrases.CREDENTIALS: str(credentials)}),
        ((), {passphrases.PLAIN: GOOD.decode()}),
    )
    for fds, environment in ways:
        done = command("keys", "show", str(path), fds=fds, **environment)
        assert (done.returncode, done.stdout.strip()) == (0, public), done.stderr
    done = command("keys", "show", str(path))
    assert (done.returncode, public in done.stdout) == (2, False)


def test_a_source_that_is_not_its_owners_alone_too_short_or_one_of_two_is_refused(
    tmp_path: Path, given_file: Path, monkeypatch
) -> None:
    path = tmp_path / "identity.key"
    given_file.chmod(0o644)
    with pytest.raises(OperatorFault, match="others may read"):
        key_files.load_or_create(path)
    given_file.chmod(0o600)
    given_file.write_bytes(b"short")
    with pytest.raises(OperatorFault, match="5 bytes"):
        key_files.load_or_create(path)
    monkeypatch.setenv(passphrases.PLAIN, GOOD.decode())
    with pytest.raises(OperatorFault, match="more than one source"):
        key_files.load_or_create(path)
    monkeypatch.delenv(passphrases.PLAIN)
    monkeypatch.setenv(passphrases.FILE, str(tmp_path / "nowhere"))
    with pytest.raises(OperatorFault, match="no such file"):
        key_files.load_or_create(path)
    monkeypatch.delenv(passphrases.FILE)
    monkeypatch.setenv(passphrases.DESCRIPTOR, "99999")
    with pytest.raises(OperatorFault, match="cannot be read"):
        key_files.load_or_create(path)
    assert not path.exists(), "no key was made in the clear instead"


def test_a_keyring_whose_library_is_not_here_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(passphrases.KEYRING, "north")
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(Missing, match="securefl-core\\[keyring\\]"):
        key_files.load_or_create(tmp_path / "identity.key")


def test_a_home_is_encrypted_changed_and_left_open_by_command_and_stays_the_same_party(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    public = key_files.load_or_create(home / "identity.key").public.hex()
    texts = key_files.secret(home / "texts.key").raw
    new = tmp_path / "new"
    new.write_bytes(OTHER)
    new.chmod(0o600)
    first = {passphrases.PLAIN: GOOD.decode()}
    done = command("keys", "encrypt", str(home), **first)
    assert done.returncode == 0, done.stderr
    assert key_files.is_encrypted(home / "identity.key")
    assert key_files.is_encrypted(home / "texts.key")
    assert command("keys", "encrypt", str(home), "--to", str(new), **first).returncode == 0
    assert command("keys", "show", str(home / "identity.key"), **first).returncode == 2
    second = {passphrases.PLAIN: OTHER.decode()}
    assert command("keys", "show", str(home / "identity.key"), **second).stdout.strip() == public
    assert command("keys", "decrypt", str(home), **second).returncode == 0
    assert key_files.load(home / "identity.key").public.hex() == public
    assert key_files.secret(home / "texts.key").raw == texts
    assert sorted(path.name for path in home.iterdir()) == ["identity.key", "identity.turn", "texts.key"]


@pytest.mark.parametrize("place", ["identity.key", "nobody/identity.key", ""])
def test_where_no_key_is_none_is_encrypted_and_nothing_is_left_behind(
    place: str, tmp_path: Path, given_file: Path
) -> None:
    home = tmp_path / "empty"
    home.mkdir()
    for command_ in (keys_encrypt, keys_decrypt):
        with pytest.raises(OperatorFault, match="no key here"):
            command_(home / place)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("last", range(3))
def test_a_change_of_passphrase_that_is_cut_off_is_made_by_the_same_command_again(
    last: int, tmp_path: Path, given_file: Path, monkeypatch
) -> None:
    """After ``last`` of three files, one of them the key that is to come: a mixed home says what to do, and is mended."""
    monkeypatch.setattr(key_files, "COST", 2)
    home, new, done = tmp_path / "home", tmp_path / "new", itertools.count()
    files.folder(home)
    new.write_bytes(OTHER)
    new.chmod(0o600)
    names = ("identity.key", "identity.next", "texts.key")
    held = {name: key_files.secret(home / name) for name in names}
    whole = key_files.exchange

    def cut_off(path: Path, data: bytes) -> None:
        if next(done) == last:
            raise SystemExit
        whole(path, data)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(key_files, "exchange", cut_off)
        keys_encrypt(home, new)
    if last:
        with pytest.raises(OperatorFault, match="run `keys encrypt` again"):
            key_files.load(home / "identity.key")
    keys_encrypt(home, new)
    assert {name: key_files.secret(home / name, OTHER) for name in names} == held


@settings(max_examples=20, deadline=None)
@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_of_an_encrypted_key_that_was_altered_nothing_opens(tmp_path_factory, place: int, bit: int) -> None:
    path = tmp_path_factory.mktemp("key") / "identity.key"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_files, "COST", 2)
        data = bytearray(key_files.encrypted(Secret(b"7" * 32), GOOD))
        place %= len(data)
        data[place] ^= 1 << bit
        path.write_bytes(data)
        path.chmod(0o600)
        with pytest.raises(OperatorFault):
            key_files.secret(path, GOOD)
        path.write_bytes(data[:place])
        with pytest.raises(OperatorFault):
            key_files.secret(path, GOOD)


def test_a_key_that_was_encrypted_before_opens_and_a_guess_costs_what_is_said(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    path.write_bytes(bytes.fromhex(WRITTEN))
    path.chmod(0o600)
    assert key_files.secret(path, GOOD).raw == b"7" * 32
    assert key_files.COST >= 17


def test_however_often_an_exchange_of_a_key_is_ended_it_is_there_in_one_form(tmp_path: Path, monkeypatch) -> None:
    """Each of three goes ends at its n-th call of the operating system, whichever that is."""
    monkeypatch.setattr(key_files, "COST", 2)  # 500 passphrases are stretched
    for number, goes in enumerate(itertools.product(range(1, 6), repeat=3)):
        path = tmp_path / str(number) / "identity.key"
        path.parent.mkdir()
        before = key_files.load_or_create(path)
        for last in goes:
            with monkeypatch.context() as patch, suppress(OSError):
                ended_at(patch, last)
                key_files.exchange(path, key_files.encrypted(key_files.secret(path, GOOD), GOOD))
            assert Identity(key_files.secret(path, GOOD)).public == before.public
        key_files.exchange(path, key_files.encrypted(key_files.secret(path, GOOD), GOOD))
        assert Identity(key_files.secret(path, GOOD)).public == before.public
        assert [each.name for each in path.parent.iterdir() if not key_files.is_encrypted(each)] == []


def ended_at(patch: pytest.MonkeyPatch, last: int) -> None:
    """The ``last`` call of the operating system that changes or writes through a file fails: the disk is full."""
    calls = itertools.count(1)

    def full(real):
        def called(*given, **more):
            if next(calls) == last:
                raise OSError(errno.ENOSPC, "no space left")
            return real(*given, **more)

        return called

    for name in ("link", "unlink", "rename", "replace", "fsync", "open", "urandom"):
        patch.setattr(os, name, full(getattr(os, name)))


def test_the_old_bytes_of_an_exchanged_key_are_written_over_where_they_lay(tmp_path: Path) -> None:
    path, another_name = tmp_path / "identity.key", tmp_path / "copy"
    key_files.load_or_create(path)
    os.link(path, another_name)
    plain = another_name.read_bytes()
    key_files.exchange(path, key_files.encrypted(Secret(plain), GOOD))
    assert another_name.read_bytes() != plain
    assert len(another_name.read_bytes()) == len(plain)
    assert key_files.secret(path, GOOD).raw == plain
