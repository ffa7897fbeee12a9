"""A decryption key outlives every crash while it is split: it is whole, or its vault has all of its shares."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from securefl import key_files
from securefl.errors import OperatorFault
from securefl.keys import Secret
from securefl.protection import tenseal_context
from securefl.protection.key_file import KeyFile
from securefl.site import custody
from securefl.terms import MemberId

NAMES = tuple(MemberId(name) for name in ("north", "south", "west"))


@pytest.fixture(scope="module")
def secret() -> bytes:
    return tenseal_context.new_context("CKKS")


@pytest.fixture(scope="module")
def homes(secret: bytes, tmp_path_factory) -> dict[str, Path]:
    """Homes with a whole key, and homes whose key was split already."""
    found = {}
    for kind in ("whole", "split"):
        base = found[kind] = tmp_path_factory.mktemp(kind)
        for name in (*NAMES, "custodian"):
            (base / name).mkdir(mode=0o700)
            key_files.load_or_create(base / name / "identity.key")
        dealer = key_files.load(base / "custodian" / "identity.key")
        KeyFile(base / "custodian" / "he.key", dealer).kept(lambda: secret)
    split(found["split"], b"0")
    return found


def split(base: Path, seed: bytes) -> None:
    members = {name: base / name for name in NAMES}
    identity = key_files.load(base / "custodian" / "identity.key")
    custody.split(base / "custodian" / "he.key", 2, members, identity, Secret(seed * 32))


def found(base: Path) -> bytes:
    """The key, as a custodian that starts has it: whole, or from the shares."""
    file = base / "custodian" / "he.key"
    identity, members = key_files.load(base / "custodian" / "identity.key"), {name: base / name for name in NAMES}
    if file.exists():
        return KeyFile(file, identity).kept(lambda: b"")
    gather = custody.gather_from(file, members, identity)
    whole = custody.assembled(file, identity, gather, Secret(b"q" * 32))
    assert whole is not None
    return whole


def killed_before(step: int, base: Path) -> bool:
    """Whether a process that splits the key was killed before it changed a file for the ``step``-th time."""
    child = os.fork()
    if child == 0:
        left = step

        def counted(call: Callable[..., object]) -> Callable[..., object]:
            def either(*args: object, **kwargs: object) -> object:
                nonlocal left
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                return call(*args, **kwargs)

            return either

        for place, name in ((os, "fsync"), (os, "open"), (Path, "replace"), (Path, "unlink"), (Path, "open")):
            setattr(place, name, counted(getattr(place, name)))
        try:
            split(base, b"1")
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("kind", ["whole", "split"])
def test_a_split_that_is_killed_between_any_two_steps_loses_no_key_and_is_finished_by_the_same_command(
    kind: str, homes: dict[str, Path], secret: bytes, tmp_path: Path
) -> None:
    step, killed = 0, True
    while killed:
        base = tmp_path / str(step)
        shutil.copytree(homes[kind], base)
        killed = killed_before(step, base)
        assert found(base) == secret, f"lost before step {step}"
        if step % 5 == 0 or not killed:
            split(base, b"2")
            assert found(base) == secret
            assert all(len(list((base / name).glob("he.key*"))) == 1 for name in NAMES)
            left = {path.suffix for path in (base / "custodian").glob("he.key*")}
            assert left == {".split", ".sums"}, "the key was erased"
        shutil.rmtree(base)
        step += 1
    assert step > 20, "every step was tried"


def test_a_key_that_was_split_is_whole_in_no_file_that_a_killed_process_left(
    homes: dict[str, Path], tmp_path: Path
) -> None:
    base = tmp_path / "killed"
    shutil.copytree(homes["whole"], base)
    file, left = base / "custodian" / "he.key", base / "custodian" / "he.key.01234567.new"
    os.link(file, left)  # killed as the key was made
    split(base, b"1")
    assert not left.exists()


def test_a_split_whose_vault_was_written_before_its_shares_is_seen_to_lose_the_key(
    homes: dict[str, Path], secret: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(custody, "_share", lambda file, vault: f"{file.name}.0.share")  # over the old ones, as before
    base = tmp_path / "base"
    shutil.copytree(homes["whole"], base)
    split(base, b"0")
    step, killed, lost = 0, True, 0
    while killed and not lost:
        copy = tmp_path / str(step)
        shutil.copytree(base, copy)
        killed = killed_before(step, copy)
        try:
            lost = found(copy) != secret
        except OperatorFault:
            lost = True
        step += 1
    assert lost
