"""The public key by which an engine knows a participant: in the key that was made, or in the certificate it got."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from securefl.errors import OperatorFault
from securefl.terms import Hash


def key_of_private(path: Path) -> Hash:
    """SHA-256 of the public half of the private key in this file, in its DER form (SubjectPublicKeyInfo).

    Raises:
        OperatorFault: it holds none.
    """
    try:
        return _digest(serialization.load_pem_private_key(path.read_bytes(), None).public_key())
    except (OSError, ValueError, TypeError) as fault:
        remedy = "make it: `securefl provision request`"
        raise OperatorFault("no private key of an engine", remedy, str(path)) from fault


def key_of_certificate(path: Path) -> Hash:
    """SHA-256 of the public key in the first certificate in this file, in its DER form (SubjectPublicKeyInfo).

    Raises:
        OperatorFault: it holds none.
    """
    try:
        return _digest(x509.load_pem_x509_certificate(path.read_bytes()).public_key())
    except (OSError, ValueError) as fault:
        remedy = "make the kit anew: `securefl provision kit`"
        raise OperatorFault("no certificate of an engine", remedy, str(path)) from fault


def _digest(key: PublicKeyTypes) -> Hash:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return Hash(hashlib.sha256(key.public_bytes(serialization.Encoding.DER, form)).digest())
