"""Each carrier of a FLARE kit goes by its own list of peers, so the doctor holds each list against the roster by itself."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from securefl.documents.participants import Neighbours
from securefl.kits import engine_certificates, flare_kit
from securefl.terms import Hash

NAMES = st.sampled_from(("server", "north", "south"))
KEYS = st.sampled_from((Hash(b"a" * 32), Hash(b"b" * 32)))
ROSTERS = st.dictionaries(NAMES, KEYS, min_size=1)
WRITTEN = st.lists(st.tuples(NAMES, st.none() | KEYS), max_size=4)


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As much of a custodian's kit as the doctor reads."""
    kit = tmp_path_factory.mktemp("kit")
    for name in ("startup", "local"):
        (kit / name).mkdir()
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "custodian")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    own = made.not_valid_before(now).not_valid_after(now + dt.timedelta(days=1)).sign(key, hashes.SHA256())
    (kit / "startup" / "client.crt").write_bytes(own.public_bytes(serialization.Encoding.PEM))
    connection = {"client": {"connection_security": "mtls"}, "servers": [{"name": "small"}]}
    (kit / "startup" / "fed_client.json").write_text(json.dumps(connection))
    (kit / "local" / "resources.json.default").write_text(json.dumps({"components": []}))
    (kit / "local" / "authorization.json.default").write_text(json.dumps({"permissions": {}}))
    return kit


def wrong(kit: Path, known: Neighbours, asked_by: list[str] | None, sites: list[str] | None) -> list[str]:
    """What the doctor finds where the agent and the relay have these lists; None: there is no such carrier."""
    agent, relay = dict(flare_kit.agent(Path("/door"))), dict(flare_kit.relay(Path("/doors")))
    agent["args"], relay["args"] = {**agent["args"], "asked_by": asked_by}, {**relay["args"], "sites": sites}
    carriers = [each for each, listed in ((agent, asked_by), (relay, sites)) if listed is not None]
    flare_kit.harden(kit, *carriers)
    return [each.name for each in flare_kit.examine(kit, known) if each.status != flare_kit.OK]


def spelled(listed: list[tuple[str, Hash | None]]) -> list[str]:
    return [name if key is None else f"{name}={key.hex()}" for name, key in listed]


def own_key(kit: Path) -> Hash:
    return engine_certificates.key_of_certificate(kit / "startup" / "client.crt")


@given(ROSTERS, ROSTERS, WRITTEN, WRITTEN, st.booleans(), st.booleans())
def test_peers_are_well_if_and_only_if_each_carrier_has_exactly_its_own_part_of_the_roster(
    kit: Path, asked_by: dict[str, Hash], asks: dict[str, Hash], heard: list[tuple[str, Hash | None]],
    asked: list[tuple[str, Hash | None]], agent_as_it_should: bool, relay_as_it_should: bool,  # noqa: FBT001
) -> None:  # fmt: skip
    heard = list(asked_by.items()) if agent_as_it_should else heard
    asked = list(asks.items()) if relay_as_it_should else asked
    as_it_should = sorted(spelled(heard)) == sorted(spelled(list(asked_by.items()))) and sorted(
        spelled(asked)
    ) == sorted(spelled(list(asks.items())))
    known = Neighbours(own_key(kit), asked_by, asks)
    assert wrong(kit, known, spelled(heard), spelled(asked)) == ([] if as_it_should else ["peers"])


def test_a_right_list_of_another_carrier_hides_nothing(kit: Path) -> None:
    server, north, other = Hash(b"s" * 32), Hash(b"n" * 32), Hash(b"e" * 32)
    known = Neighbours(own_key(kit), {"server": server}, {"north": north})
    right, sites = [f"server={server.hex()}"], [f"north={north.hex()}"]
    assert wrong(kit, known, right, sites) == []
    for heard, asked in (
        ([f"server={other.hex()}"], [*sites, *right]),
        (["server"], [*sites, *right]),
        (sites, right),
        ([*right, *right], sites),
        ([f"server={other.hex()}", *right], sites),
        (right, None),
    ):
        assert wrong(kit, known, heard, asked) == ["peers"], (heard, asked)
