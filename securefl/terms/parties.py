"""The parties of a federation that are no members, by name."""

from __future__ import annotations

from securefl.terms import (
    MemberId,
)

COORDINATOR, CUSTODIAN = MemberId("coordinator"), MemberId("custodian")
ROLES = (COORDINATOR, CUSTODIAN)
