"""The scheme `masked-ckks`: masks inside CKKS; nobody alone opens anything but sums."""

from __future__ import annotations

from securefl.protection import ckks_coefficients
from securefl.protection.encryption_specs import masked
from securefl.terms import Scheme

SPEC = masked(Scheme.MASKED_CKKS, ckks_coefficients, "he.key")
