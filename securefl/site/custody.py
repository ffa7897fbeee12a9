"""The decryption key of a federation whose homes are on this machine: split among them, and assembled for a run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

from securefl import files, key_files, keys, wire
from securefl.errors import OperatorFault, PeerFault
from securefl.home import identity
from securefl.keys import Identity, Secret
from securefl.policy.load import safe_threshold
from securefl.protection import key_shares, tenseal_context
from securefl.protection.encrypted import key_id
from securefl.protection.key_file import KeyFile
from securefl.terms import MemberId

Gather = Callable[[bytes], Iterable[bytes]]


class BelowFloor(OperatorFault):
    """Members whom the policy assumes to collude would hold shares enough for the key."""


def split(file: Path, threshold: int, members: Mapping[MemberId, Path], identity: Identity, rand: Secret) -> None:
    """The key in ``file`` is replaced by its vault, and each member's home holds a share.

    A key that was split is split anew: the old shares fit no vault that is left, but whoever has a copy of the old one.
    New shares are written beside the old ones, then the vault is exchanged in one step, then what is old is erased: a
    crash at any moment leaves the key whole, or a vault with all of its shares. The same command then finishes.

    Raises:
        OperatorFault: there is no key, the threshold is none, or too few shares are here to split it anew.
    """
    vault = vault_of(file)
    if vault.is_file() and not file.exists():
        again = keys.derive(rand, "split-again")
        secret = assembled(file, identity, gather_from(file, members, identity), again)
        assert secret is not None, "there is a vault"
    else:
        check_here(file)
        secret = KeyFile(file, identity).kept(lambda: b"")
    key = key_id(tenseal_context.public_half(secret))
    boxes = {member: keys.public_half(_box(home)) for member, home in members.items()}
    dealt, shares = key_shares.split(secret, key, threshold, boxes, identity, rand)
    for member, home in members.items():
        files.write(home / _share(file, dealt), shares[member])
        files.names_on_disk(home)
    files.write(vault, dealt)
    files.names_on_disk(vault.parent)
    _erase_old(file, dealt, members.values())


def dealt(
    file: Path, threshold: int, boxes: Mapping[MemberId, bytes], identity: Identity, rand: Secret
) -> tuple[bytes, dict[MemberId, bytes]]:
    """The vault of the key in ``file``, and each member's share, sealed to its box; nothing is written.

    Raises:
        OperatorFault: there is no key, or the threshold is none.
    """
    check_here(file)
    secret = KeyFile(file, identity).kept(lambda: b"")
    return key_shares.split(secret, key_id(tenseal_context.public_half(secret)), threshold, boxes, identity, rand)


def exchange(file: Path, vault: bytes) -> None:
    """Put a vault in the place of the key in ``file``, and erase the key: every share is on a disk by now."""
    files.write(vault_of(file), vault)
    files.names_on_disk(vault_of(file).parent)
    _erase_old(file, vault, ())


def _erase_old(file: Path, vault: bytes, homes: Iterable[Path]) -> None:
    """Erase the whole key and every share of an older vault: all that this one has taken the place of."""
    files.clear(file)
    if file.exists():
        file.replace(_erased(file))  # first: half a key must not pass for one
    if _erased(file).exists():
        files.erase(_erased(file))
    begun = vault_of(file).parent.glob(f"{vault_of(file).name}.*")  # a process that ended left half a file
    shares = [path for home in homes for path in home.glob(f"{file.name}.*.share*")]
    for path in sorted((*begun, *shares)):
        if path.name != _share(file, vault):
            files.erase(path)


def check_floor(threshold: int, members: int, colluding: int, place: str) -> None:
    """Check that no coalition the policy reckons with has the key, nor two groups of members apart; raise otherwise.

    Args:
        threshold: shares that give the key.
        members: of the smallest cohort that is asked for shares.
        colluding: members assumed to pool with the coordinator.
        place: what an error calls the file.

    Raises:
        BelowFloor: it is below colluding + 1, or below the safe threshold.
    """
    least = max(colluding + 1, safe_threshold(members, colluding))
    if threshold < least:
        what = f"a threshold of {threshold}, where the policy assumes that {colluding} of {members} members collude"
        raise BelowFloor(what, f"give --threshold {least} or more", place)


def check_split(file: Path, members: Collection[MemberId], colluding: int) -> None:
    """Check that a key that was split bears this run's policy and roster; nothing happens to one that is whole.

    Who holds a share and is asked in this run counts: a share of somebody else is not sent for.

    Raises:
        BelowFloor: it was split under a policy or roster that reckoned with less.
    """
    if not vault_of(file).is_file():
        return
    statement = wire.decode(vault_of(file).read_bytes(), key_shares.Vault).statement
    try:
        check_floor(statement.threshold, len(set(statement.roster) & set(members)), colluding, str(file))
    except BelowFloor as fault:
        raise BelowFloor(
            f"the key was split by {fault.what}",
            f"split it again: `securefl custodian split`, and {fault.remedy}",
            str(file),
        ) from fault


def check_one(file: Path) -> None:
    """Check that no whole key lies beside its vault; raise OperatorFault otherwise."""
    if vault_of(file).is_file() and file.exists():
        remedy = "run `securefl custodian split` again: it erases the key"
        raise OperatorFault("a key lies here that was split", remedy, str(file))


def check_here(file: Path) -> None:
    """Check that there is a decryption key.

    Raises:
        OperatorFault: there is none.
    """
    if not file.is_file():
        raise OperatorFault(
            "no decryption key here", "run the federation once, or look for the custodian's home", str(file)
        )


def gather_from(file: Path, members: Mapping[MemberId, Path], custodian: Identity) -> Gather:
    """Return who to ask for shares: these homes, each of which answers for itself or not at all.

    A share may have been dealt under a former key of the custodian's, and to a former one of the member's.
    """

    def gather(request: bytes) -> Iterator[bytes]:
        name = _share(file, vault_of(file).read_bytes())
        for member, home in members.items():
            share = home / name
            if share.is_file():
                yield from _answers(member, home, share.read_bytes(), request, custodian)

    return gather


def _answers(member: MemberId, home: Path, share: bytes, request: bytes, custodian: Identity) -> Iterator[bytes]:
    """One member's answer; none where its share opens under no key of these two parties."""
    boxes = [each.box for each in key_files.load(identity.place(home)).every]
    for dealer in custodian.every:
        try:
            answer = key_shares.answer(member, share, boxes, request, custodian.public, dealer.public)
        except PeerFault:
            continue
        yield answer
        return


def assembled(file: Path, identity: Identity, gather: Gather, rand: Secret) -> bytes | None:
    """The key that was split, in memory; None where it was not split.

    Raises:
        OperatorFault: too few members gave their share, or a whole key lies beside the vault.
    """
    vault = vault_of(file)
    if not vault.is_file():
        return None
    check_one(file)
    whole = key_shares.assemble(vault.read_bytes(), identity, gather, rand)
    if _erased(file).exists():  # a split that ended midway left it
        files.erase(_erased(file))
    return whole


def threshold_of(file: Path) -> int | None:
    """Return how many shares give the key; None where it is whole."""
    vault = vault_of(file)
    return wire.decode(vault.read_bytes(), key_shares.Vault).statement.threshold if vault.is_file() else None


def vault_of(file: Path) -> Path:
    """Return where the locked key lies."""
    return file.with_name(f"{file.name}.split")


def is_split(home: Path) -> bool:
    """Return whether a decryption key of this home was split."""
    return any(home.glob("*.split"))


def _share(file: Path, vault: bytes) -> str:
    """Return what a share is called at its member: of this vault, so that those of another lie beside it."""
    statement = wire.encode(wire.decode(vault, key_shares.Vault).statement)
    return f"{file.name}.{hashlib.sha256(statement).hexdigest()[:16]}.share"


def _erased(file: Path) -> Path:
    """Return what a whole key is called while it is erased."""
    return file.with_name(f"{file.name}.erased")


def _box(home: Path) -> Secret:
    return key_files.load(identity.place(home)).box
