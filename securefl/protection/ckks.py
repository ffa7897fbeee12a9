"""The scheme `ckks`: encryption by CKKS, whose custodian is trusted to open sums alone."""

from __future__ import annotations

from securefl.protection import ckks_slots
from securefl.protection.encryption_specs import encrypted
from securefl.terms import Scheme

SPEC = encrypted(Scheme.CKKS, ckks_slots, "he.key")
