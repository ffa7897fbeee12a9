"""A kit for Flower: keys are made where they stay, what travels is checked by fingerprint, and what is loosened is found."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from securefl.cli.main import main
from securefl.errors import OperatorFault
from securefl.kits import flower_kit
from securefl_carriers.flower import kit as kits
from securefl_carriers.flower.kit import NoKit, ServerKit, SiteKit
from securefl_carriers.flower.nodes import Nodes, key_of

PORT = 28000
HEAD = "  sl  local_address rem_address   st tx_queue"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A server's kit that admits a site, and that site's."""
    server = ServerKit(tmp_path / "server", "0.0.0.0:8443", PORT, tmp_path / "doors", (1000,))
    told = kits.make_server(server, "flower.example.org")
    site = SiteKit(tmp_path / "north", "north", "flower.example.org:8443", tmp_path / "door", 9094)
    own = kits.make_site(site, server.folder / "ca.crt", told)
    kits.admit(server.folder, "north", site.folder / "node.pub", own)
    return tmp_path


def wrong(kit: Path, *tables: Path) -> set[str]:
    return {each.name for each in flower_kit.examine(kit, tables) if each.status != flower_kit.OK}


def table(tmp_path: Path, *local: str, state: str = "0A") -> Path:
    """The kernel's own, of these addresses."""
    path = tmp_path / "tcp"
    path.write_text("\n".join([HEAD, *(f"   0: {each} 00000000:0000 {state} 00000000:00000000" for each in local), ""]))
    return path


def test_what_is_made_is_read_again_and_has_nothing_loose(made: Path) -> None:
    nodes = ServerKit.load(made / "server").nodes
    assert nodes.admitted() == {"north": key_of((made / "north" / "node.pub").read_bytes())}
    assert SiteKit.load(made / "north").superlink == "flower.example.org:8443"
    for name in ("server", "north"):
        assert wrong(made / name, table(made, f"0100007F:{PORT:04X}")) == set()
    secret = {path.read_bytes() for path in (made / "north").iterdir() if path.name in ("node.key", "secret")}
    assert not [path for path in (made / "server").rglob("*") if path.is_file() and path.read_bytes() in secret]


Change = Callable[[Path], object]


def told(**changes: object) -> Change:
    def change(kit: Path) -> None:
        path = kit / flower_kit.FILE
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def copied(source: str, target: str) -> Change:
    return lambda kit: (kit / target).write_bytes((kit / source).read_bytes())


def written_otherwise(nodes: Path, name: str) -> None:
    (nodes / f"{name}.pub").write_bytes((nodes / "north.pub").read_bytes() + b" of-somebody\n")


def no_more(kit: Path) -> None:
    """A site is let in and registered, then its key is removed, and nobody takes it back."""
    nodes = Nodes(kit)
    nodes.register(nodes.admitted()["north"], 1)
    nodes.place("north").unlink()


def other_authority(kit: Path) -> None:
    server = ServerKit(kit.parent / f"another-{kit.name}", "0.0.0.0:8443", PORT, kit)
    kits.make_server(server, "flower.example.org")
    shutil.copyfile(server.folder / "ca.crt", kit / "ca.crt")


LOOSER: dict[str, tuple[str, Change]] = {
    "settings more": ("server", told(isolation="subprocess")),
    "settings of the other": ("north", told(doors="/x")),
    "carrier": ("north", told(agent="door")),
    "carrier of the server": ("server", told(doors="doors")),
    "folder open": ("north", lambda kit: kit.chmod(0o755)),
    "folder written": ("server", lambda kit: (kit / "nodes").chmod(0o770)),
    "folder with a key for all": ("north", lambda kit: (kit / "node.key").chmod(0o640)),
    "folder with a secret for all": ("server", lambda kit: (kit / "secret").chmod(0o604)),
    "key of somebody else": ("north", lambda kit: (kit / "node.pub").write_bytes(b"ssh-rsa AAAA")),
    "key gone": ("north", lambda kit: (kit / "node.key").unlink()),
    "sites by one key": ("server", copied("nodes/north.pub", "nodes/south.pub")),
    "sites by one key written otherwise": ("server", lambda kit: written_otherwise(kit / "nodes", "south")),
    "sites by no key": ("server", lambda kit: (kit / "nodes" / "south.pub").write_text("ssh-rsa")),
    "nodes that are not let in": ("server", lambda kit: Nodes(kit).register("0" * 64, 1)),
    "nodes let in no more": ("server", lambda kit: no_more(kit)),
    "connection under another": ("server", other_authority),
    "connection under nobody": ("north", lambda kit: (kit / "ca.crt").write_text("")),
}


@pytest.mark.parametrize("name", LOOSER)
def test_whatever_is_loosened_is_found(name: str, made: Path) -> None:
    whose, change = LOOSER[name]
    change(made / whose)
    assert wrong(made / whose) == {name.partition(" ")[0]}


@pytest.mark.parametrize(
    ("local", "state", "found"),
    [
        (f"00000000:{PORT:04X}", "0A", {"interface"}),
        (f"0500A8C0:{PORT:04X}", "0A", {"interface"}),
        (f"00000000000000000000000000000000:{PORT:04X}", "0A", {"interface"}),
        (f"00000000000000000000000001000000:{PORT:04X}", "0A", set()),
        (f"00000000:{PORT:04X}", "01", set()),  # a connection, nobody who listens
        (f"00000000:{PORT + 1:04X}", "0A", set()),
    ],
)
def test_flowers_own_port_must_be_this_machines_alone(local: str, state: str, found: set[str], made: Path) -> None:
    assert wrong(made / "server", table(made, local, state=state)) == found


def test_the_doctor_says_it_and_ends_with_2(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def doctor(*argv: object) -> int:
        with pytest.raises(SystemExit) as ended:
            main(["doctor", *map(str, argv)])
        return int(str(ended.value.code or 0))

    assert doctor("--flower", made / "north") == 0
    (made / "north").chmod(0o755)
    assert doctor("--flower", made / "north") == 2
    assert "chmod" in capsys.readouterr().out
    assert doctor("--flower", made / "north", "--flare", made) == 2
    assert "one kit at a time" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", [None, "", "[]", "{}", '{"securefl_flower_kit": "site"}', '{"securefl_flower_kit": "x", "port": 1}']
)
def test_what_is_no_kit_is_refused(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / flower_kit.FILE).write_text(text)
    with pytest.raises(OperatorFault, match="no kit of Flower"):
        flower_kit.examine(tmp_path)
    for load in (ServerKit.load, SiteKit.load, kits.kind_of):
        if load is not kits.kind_of or not text or "securefl" not in text:
            with pytest.raises(NoKit):
                load(tmp_path)


def test_a_setting_that_is_none_is_refused(made: Path) -> None:
    told(isolation="subprocess")(made / "server")
    with pytest.raises(NoKit, match="has not what the kit of a server has"):
        ServerKit.load(made / "server")


def test_nobody_is_let_in_under_another_ones_name_or_key(made: Path) -> None:
    key = made / "north" / "node.pub"
    own = kits.fingerprint(key.read_bytes())
    for name, told, why in (
        ("north", own, "admitted already"),
        ("south", own[:-1] + ("0" if own[-1] != "0" else "1"), "its fingerprint is"),
        ("../x", own, "no name of a site"),
        ("server", own, "no name of a site"),
    ):
        with pytest.raises(NoKit, match=re.escape(why)):
            kits.admit(made / "server", name, key, told)
    with pytest.raises(NoKit, match="its fingerprint is"):
        kits.make_site(SiteKit(made / "s", "s", "h:1", made / "door", 1), made / "server" / "ca.crt", own)
    assert not (made / "s").exists()


def test_who_is_served_is_who_is_let_in_now_and_under_one_name(made: Path) -> None:
    nodes = ServerKit.load(made / "server").nodes
    ((place, key),) = nodes.new().items()
    assert (place, nodes.served()) == (nodes.place("north"), {})
    nodes.register(key, 7)
    assert (nodes.served(), nodes.new(), nodes.strays()) == ({"north": 7}, {}, {})
    written_otherwise(place.parent, "south")
    assert (nodes.served(), nodes.strays()) == ({}, {}), "which of them it is nobody knows"
    nodes.place("north").unlink()
    assert (nodes.served(), nodes.strays()) == ({"south": 7}, {}), "its owner said it"
    nodes.place("south").write_bytes(b"")
    assert (nodes.served(), nodes.strays()) == ({}, {}), "it may be about to be written"
    nodes.place("south").unlink()
    assert (nodes.served(), nodes.strays()) == ({}, {key: 7})
    nodes.take_back(key)
    assert (nodes.registered().nodes, nodes.strays()) == ({}, {})
    assert wrong(made / "server") == set()
    public = (made / "north" / "node.pub").read_bytes()
    nodes.place("north").write_bytes(public)
    assert (nodes.new(), nodes.served()) == ({}, {}), "Flower registers no key twice"
    assert wrong(made / "server") == {"sites"}


def test_a_key_is_let_in_once_and_never_again_once_it_was_taken_back(made: Path) -> None:
    server, mail = made / "server", made / "mail.pub"
    nodes, public = ServerKit.load(server).nodes, (made / "north" / "node.pub").read_bytes()
    mail.write_bytes(public + b" of-somebody\n")
    told = kits.fingerprint(mail.read_bytes())
    with pytest.raises(NoKit, match="admitted already, under another name"):
        kits.admit(server, "south", mail, told)
    nodes.register(key_of(public), 7)
    nodes.place("north").unlink()
    nodes.take_back(key_of(public))
    with pytest.raises(NoKit, match="was taken back; have south make a kit anew"):
        kits.admit(server, "south", mail, told)
    mail.write_bytes(b"ssh-ed25519 AAAA")
    with pytest.raises(NoKit, match="no public key"):
        kits.admit(server, "south", mail, kits.fingerprint(mail.read_bytes()))
    assert nodes.keys() == {}


def exchanged(path: Path, first: bytes, then: bytes) -> Path:
    """Lay out a file that changes on its way: whoever opens it once reads ``first``, and by then ``then`` lies there."""
    beside = path.with_name(f"{path.name}.beside")
    beside.write_bytes(then)
    os.mkfifo(path)

    def give() -> None:
        with path.open("wb") as pipe:
            pipe.write(first)
            beside.replace(path)

    threading.Thread(target=give, daemon=True).start()
    return path


def test_what_is_kept_are_the_very_bytes_whose_fingerprint_was_read_out(made: Path) -> None:
    """Whoever may write where a file lies on its way exchanges it once it was looked at: nothing of theirs is kept."""
    stranger = ServerKit(made / "stranger", "0.0.0.0:8443", PORT, made / "doors")
    kits.make_server(stranger, "flower.example.org")
    honest, theirs = ((made / name / "ca.crt").read_bytes() for name in ("server", "stranger"))
    site = SiteKit(made / "south", "south", "flower.example.org:8443", made / "door", 9094)
    told = kits.make_site(site, exchanged(made / "mail.crt", honest, theirs), kits.fingerprint(honest))
    assert (site.folder / "ca.crt").read_bytes() == honest
    own, other = ((made / name / "node.pub").read_bytes() for name in ("south", "north"))
    kits.admit(made / "server", "south", exchanged(made / "mail.pub", own, other), told)
    assert (made / "server" / "nodes" / "south.pub").read_bytes() == own


def test_what_is_longer_than_any_key_is_not_read_to_its_end(made: Path) -> None:
    (made / "long").write_bytes(bytes(kits.MOST_PUBLIC + 1))
    with pytest.raises(NoKit, match="more than 65536 bytes"):
        kits.admit(made / "server", "south", made / "long", kits.fingerprint(bytes(kits.MOST_PUBLIC + 1)))


@pytest.mark.parametrize(
    ("changed", "why"),
    [({"agent": Path("door")}, "no absolute path"), ({"superlink": "h"}, "no host:port"), ({"name": "a/b"}, "no name")],
)
def test_a_kit_that_cannot_be_is_not_made(changed: dict[str, object], why: str, tmp_path: Path) -> None:
    good = {"folder": tmp_path, "name": "a", "superlink": "h:1", "agent": tmp_path, "port": 1}
    SiteKit(**good)
    with pytest.raises(NoKit, match=why):
        SiteKit(**{**good, **changed})
