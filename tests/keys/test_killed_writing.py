"""Whoever is killed while it writes a secret leaves none behind: of a home that is encrypted later, nothing lies open."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from securefl import files, key_files, passphrases
from securefl.cli.keys import keys_decrypt, keys_encrypt
from securefl.home import identity, notices, ring
from securefl.home.home import Home
from securefl.home.peers import known, pin
from securefl.home.rotation import rotate
from securefl.terms import Departure, MemberId, Participant, PublicKey, SignedNotice
from securefl.terms.names import FederationName, SignatureBytes

CALLS = ("link", "unlink", "rename", "replace", "fsync", "open")
NORTH = MemberId("north")


@pytest.fixture(autouse=True)
def cheap(monkeypatch, tmp_path: Path) -> None:
    """This process has a passphrase for what `keys encrypt` is asked, and a guess at it costs nothing."""
    for name in (*passphrases.SOURCES.split(", ")[:4], passphrases.CREDENTIALS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(key_files, "COST", 2)
    word = tmp_path / "passphrase"
    word.write_bytes(b"six words that nobody guesses")
    word.chmod(0o600)


def killed_at(step: int, act: Callable[[], object]) -> bool:
    """Whether a process was killed just before it changed a file for the ``step``-th time."""
    child = os.fork()
    if child == 0:
        calls = itertools.count()

        def counted(real: Callable[..., object]) -> Callable[..., object]:
            def called(*given: object, **more: object) -> object:
                if next(calls) == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*given, **more)

            return called

        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        try:
            act()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def first_key(home: Path) -> None:
    key_files.load_or_create(identity.place(home))


def later_secret(home: Path) -> None:
    identity.secret(home, identity.TEXTS)


def rotation(home: Path) -> None:
    notice = Departure(FederationName("f"), NORTH, PublicKey(bytes(32)), 1)
    ring.drawn(home)
    ring.begin(home, (SignedNotice(notice, SignatureBytes(bytes(64))),))
    ring.exchange(home)
    ring.end(home)


def decrypting(home: Path) -> None:
    os.environ[passphrases.FILE] = str(home.parent.parent / "passphrase")
    keys_decrypt(home)


def encrypting(home: Path) -> None:
    keys_encrypt(home, home.parent.parent / "passphrase")


STORIES = {
    "the first key": ((), first_key),
    "a later secret": ((first_key,), later_secret),
    "an exchange": ((first_key, later_secret), rotation),
    "a second exchange": ((first_key, rotation), rotation),
    "encryption": ((first_key, later_secret, rotation), encrypting),
    "decryption": ((first_key, later_secret, rotation, encrypting), decrypting),
}


@pytest.mark.parametrize("story", STORIES)
def test_after_a_kill_at_any_point_of_writing_a_home_that_is_encrypted_has_no_secret_in_the_clear(
    story: str, tmp_path: Path, monkeypatch
) -> None:
    before, act = STORIES[story]
    made = tmp_path / "homes" / "made"
    files.folder(made)
    for done in before:
        done(made)
    for step in itertools.count():
        home = made.with_name(str(step))
        shutil.copytree(made, home)
        killed = killed_at(step, lambda here=home: act(here))
        with monkeypatch.context() as patch:
            patch.setenv(passphrases.FILE, str(tmp_path / "passphrase"))
            first_key(home)  # the party is started again
            if ring.pending(home):
                ring.exchange(home)
                ring.end(home)
            keys_encrypt(home, tmp_path / "passphrase")
            secrets = [key_files.secret(path).raw for path in identity.secrets(home)]
        left = {path.name: path.read_bytes() for path in home.rglob("*") if path.is_file()}
        assert [name for name, data in left.items() if any(secret in data for secret in secrets)] == []
        # whatever else was drawn, and came to be nothing
        assert [name for name, data in left.items() if len(data) == key_files.SECRET] == []
        assert [name for name in left if name.endswith(".new")] == []
        if not killed:
            break
    assert step > 3, "every step was tried"


SOUTH, FEDERATION = MemberId("south"), FederationName("f")


def opened(home: Path, owner: MemberId) -> Home:
    return Home.at(home, owner, lambda: 1)


def rotating(home: Path) -> None:
    rotate(opened(home / "north", NORTH), 3600)


def taking(home: Path) -> None:
    for notice in rotate(opened(home / "north", NORTH), 3600):
        notices.take(opened(home / "south", SOUTH), FEDERATION, notice)


@pytest.mark.parametrize(("act", "owner"), [(rotating, NORTH), (taking, SOUTH)])
def test_after_a_kill_at_any_point_of_an_exchange_each_party_starts_with_the_keys_that_its_ledger_has(
    act: Callable[[Path], None], owner: MemberId, tmp_path: Path
) -> None:
    made, seats = tmp_path / "homes" / "made", list[Participant]()
    files.folder(made)
    for name in (NORTH, SOUTH):
        home = opened(made / name, name)
        home.engine.dispose()
        seats.append(Participant(name, home.identity.public, "here"))
    for name in (NORTH, SOUTH):
        pin(made / name, FEDERATION, tuple(seats))
    keys = set[PublicKey]()
    for step in itertools.count():
        place = made.with_name(str(step))
        shutil.copytree(made, place)
        killed = killed_at(step, lambda here=place: act(here))
        home = opened(place / owner, owner)  # the party is started again
        pin(home.path, FEDERATION, tuple(home.current(FEDERATION, seat) for seat in seats))
        now = {name: PublicKey(bytes.fromhex(key)) for name, key in known(home.path, FEDERATION).items()}
        assert owner != NORTH or now[NORTH] == home.identity.public
        home.engine.dispose()
        keys.add(now[NORTH])
        if not killed:
            break
    assert step > 3, "every step was tried"
    assert len(keys) > 1, "it was killed before and after"


def test_a_home_that_is_opened_erases_what_was_left_and_nothing_else(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "north", NORTH, lambda: 1)
    home.engine.dispose()
    folder = home.path / "identity.former"
    folder.mkdir(mode=0o700)
    left = [home.path / "identity.key.01234567.new", folder / "000000.key.89abcdef.new"]
    for path in left:
        path.write_bytes(b"a private key")
    other = home.path / "records.new"
    other.write_bytes(b"not ours")
    os.link(left[1], tmp_path / "copy")
    Home.at(home.path, NORTH, lambda: 1).engine.dispose()
    assert [path for path in left if path.exists()] == []
    assert (tmp_path / "copy").read_bytes() == b"a private key", "a name went, and not what another name has"
    assert other.exists()
