"""The scheme `bfv`: encryption by BFV, whose custodian is trusted to open sums alone."""

from __future__ import annotations

from securefl.protection import bfv_coefficients
from securefl.protection.encryption_specs import encrypted
from securefl.terms import Scheme

SPEC = encrypted(Scheme.BFV, bfv_coefficients, "bfv.key")
