"""Whoever reaches Flower's gate, without a key, can hold so many connections, for so long, and so many bytes."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from examples.flare import engine
from examples.flare.network import free_port, until
from examples.flower.network import made
from securefl_carriers.flower import kit as kits

LOOPBACK, ANOTHER = "127.0.0.1", "127.0.0.2"
HEAD_BYTES, WAIT_S = 4096, 60.0
NEVER = {"head_s": 600.0, "body_s": 600.0, "whole_s": 600.0}
REFUSED = (
    b"POST /v1/fleet/x HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"  # by the gate itself: no SuperLink is here
)
TRUSTING = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
TRUSTING.check_hostname, TRUSTING.verify_mode = False, ssl.CERT_NONE


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gate")
    kits.make_server(kits.ServerKit(folder / "kit", f"{LOOPBACK}:{free_port()}", free_port(), folder), "localhost")
    return folder / "kit"


def connected(kit: Path, source: str = LOOPBACK) -> socket.socket:
    """Connect as a stranger does, through TLS.

    Raises:
        OSError: nobody takes the connection, or it is closed at once.
    """
    host, port = kits.address(json.loads((kit / kits.FILE).read_text())["public"])
    plain = socket.create_connection((host, port), WAIT_S, source_address=(source, 0))
    return TRUSTING.wrap_socket(plain)


@contextmanager
def gate(kit: Path, **limits: float) -> Iterator[subprocess.Popen[bytes]]:
    """Run a gate with these limits, in Flower's own environment."""
    told = json.dumps({"head_bytes": HEAD_BYTES, **limits})
    command = [made() / "bin" / "python", "-m", "tests.support.gate_process", kit, told]
    process = subprocess.Popen(command, cwd=engine.ROOT, env={**os.environ, "PYTHONPATH": str(engine.ROOT)})
    try:
        until(lambda: answers(kit), "the gate")
        yield process
    finally:
        process.kill()
        process.wait()


def answers(kit: Path) -> bool:
    """Whether a stranger hears that they may not."""
    with suppress(OSError), connected(kit) as line:
        line.sendall(REFUSED)
        return line.recv(12) == b"HTTP/1.1 403"
    return False


def is_ended(line: socket.socket) -> bool:
    """Read until the other end closes, or has said nothing for long."""
    try:
        while line.recv(1 << 16):
            pass
    except (ConnectionError, ssl.SSLError):
        return True
    except TimeoutError:
        return False
    return True


def test_no_connection_is_held_longer_than_its_deadline_whatever_it_says(kit: Path) -> None:
    begun = b"POST /v1/fleet/pull-messages HTTP/1.1\r\nhost: x\r\n"
    with gate(kit, head_s=0.3, body_s=600.0, whole_s=0.3):
        for said, once_answered in (
            (b"", b""),
            (b"POST /v1/fl", b""),
            (begun, b""),
            (begun + b"content-length: 9\r\n\r\n1", b""),
            (begun + b"transfer-encoding: chunked\r\n\r\n5\r\n1", b""),
            (begun + b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\n\r\n", b""),
            (REFUSED, b""),
            (REFUSED, b"POST /v1/fl"),  # of the second request not even a head
            (REFUSED.replace(b": 0", b": 9"), b"1"),  # whose body never ends
        ):
            with connected(kit) as line:
                line.sendall(said)
                if once_answered:
                    assert line.recv(1 << 16).startswith(b"HTTP/1.1 403")
                    line.sendall(once_answered)
                assert is_ended(line), (said, once_answered)
        assert answers(kit)


@pytest.mark.parametrize(
    ("first", "more"),
    [
        (b"POST /v1/fleet/x HTTP/1.1\r\n", b"a:b\r\n"),
        (b"POST /v1/fleet/x HTTP/1.1\r\na: ", b"b"),
        (b"POST /v1/fleet/", b"x"),
        (b"POST /v1/fleet/pull-messages HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", b"0"),
        (b"POST /v1/fleet/pull-messages HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"a:b\r\n"),
    ],
    ids=["headers", "header", "path", "size of a chunk", "trailers"],
)
def test_what_never_ends_before_a_body_is_not_kept(first: bytes, more: bytes, kit: Path) -> None:
    with gate(kit, **NEVER), connected(kit) as line:
        line.sendall(first)
        sent, piece = 0, more * (HEAD_BYTES // len(more))
        with suppress(ConnectionError, ssl.SSLError):
            while sent < 64 << 20:
                line.sendall(piece)
                sent += len(piece)
        assert sent < 32 << 20, "what is sent behind the end of a connection fills buffers of the kernel's alone"
        assert answers(kit)


def test_one_address_holds_a_part_of_the_connections_and_all_addresses_no_more_than_all(kit: Path) -> None:
    with gate(kit, **NEVER, at_once=3, of_one=4):
        lines = [connected(kit) for _ in range(4)]
        for source in (LOOPBACK, LOOPBACK):
            with pytest.raises(OSError):  # noqa: PT011 - reset, or an end within the handshake
                connected(kit, source)
        others = [connected(kit, ANOTHER) for _ in range(2)]
        with pytest.raises(OSError):  # noqa: PT011 - as above: six in all, those through TLS or not
            connected(kit, ANOTHER)
        others[0].sendall(REFUSED)
        assert others[0].recv(12) == b"HTTP/1.1 503", "too many are connected: come again"
        for line in (*lines, *others):
            line.close()
        until(lambda: answers(kit), "room for another")
