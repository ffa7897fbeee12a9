"""The scheme `masked-bfv`: masks inside BFV; nobody alone opens anything but sums."""

from __future__ import annotations

from securefl.protection import masked_bfv_payload
from securefl.protection.encryption_specs import masked
from securefl.terms import Scheme

SPEC = masked(Scheme.MASKED_BFV, masked_bfv_payload, "bfv.key")
