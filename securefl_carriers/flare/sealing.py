"""A poll is for the one party whose key was named, and its answer from that one: sealed and signed by FLARE's cipher.

FLARE's server and authority decide which process gets a name. A participant that is known by a key reads what is asked
of it, and is heard, only with that key: a second certificate for its name is nobody's. Whose key is which stands in the
kit's own file, as parties signed it of themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import serialization
from nvflare.fuel.f3.cellnet.cell_cipher import InvalidCertChain
from nvflare.fuel.f3.cellnet.core_cell import _SM_CHANNEL, _SM_TOPIC
from nvflare.fuel.f3.message import Message

CERTIFICATE_S: Final = 5.0  # to wait for a participant's certificate

FAULTS: Final = (InvalidSignature, InvalidTag, InvalidCertChain, RuntimeError, ValueError, TypeError)
PLAIN: Final = (bytes, bytearray, memoryview)  # FLARE's decoder builds objects; of those none is looked at


class Unsealed(Exception):
    """What came is not from the participant's key, or not for this one's; or its certificate has another key."""


class Participants:
    """Some of FLARE's participants, each written as NAME=KEY; NAME alone is known by its name alone.

    A key is SHA-256 of the public key in the certificate (SubjectPublicKeyInfo, DER), in hexadecimal.
    """

    def __init__(self, written: Iterable[str]) -> None:
        parts = [each.partition("=") for each in written]
        self._keys = {name: key for name, _, key in parts}
        self._chains = dict[str, bytes]()  # certificates that have the right key

    @property
    def names(self) -> tuple[str, ...]:
        """Who they are."""
        return tuple(self._keys)

    def sealed(self, cell: Any, name: str, message: bytes) -> bytes:  # noqa: ANN401 - FLARE's cell
        """Return the message as only that participant reads it.

        Raises:
            Unsealed: its certificate cannot be had, or has another key.
        """
        if not self._keys[name]:
            return message
        try:
            sealed: bytes = cell.core_cell.credential_manager.encrypt(self._certificate(cell, name), message)
        except FAULTS as fault:
            raise Unsealed(f"{name}: {fault}") from fault
        return sealed

    def opened(self, cell: Any, name: str, payload: object) -> bytes:  # noqa: ANN401 - FLARE's cell
        """Return the message that this participant sealed for this one.

        Raises:
            Unsealed: it is none.
        """
        if not isinstance(payload, PLAIN):
            raise Unsealed(f"{name}: no bytes")
        if not self._keys[name]:
            return bytes(payload)
        try:
            message: bytes = cell.core_cell.credential_manager.decrypt(self._certificate(cell, name), bytes(payload))
        except FAULTS as fault:
            raise Unsealed(f"{name}: {type(fault).__name__}") from fault
        return message

    def _certificate(self, cell: Any, name: str) -> bytes:  # noqa: ANN401 - FLARE's cell
        """Return its certificate, as it gives it itself; the cipher holds it against the authority's.

        One with another key is not remembered: whoever has the right one may come next.
        """
        if name not in self._chains:
            chain = _exchanged(cell.core_cell, name)
            if _digest(chain) != self._keys[name]:
                raise RuntimeError("its certificate has another key than the one that is known here")
            self._chains[name] = chain
        return self._chains[name]


def _exchanged(cell: Any, name: str) -> bytes:  # noqa: ANN401 - FLARE's cell
    """Ask it for its certificate, as FLARE does; but not for an hour, where it has joined only by half."""
    own = cell.credential_manager
    reply = cell.send_request(
        _SM_CHANNEL, _SM_TOPIC, name, Message(None, own.create_request()), timeout=CERTIFICATE_S, optional=True
    )
    if not reply.payload:
        raise RuntimeError("it gave no certificate")
    chain: bytes = own.process_response(reply)
    return chain


def _digest(chain: bytes) -> str:
    key = x509.load_pem_x509_certificate(chain).public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(serialization.Encoding.DER, form)).hexdigest()
