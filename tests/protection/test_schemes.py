"""Every scheme says the same of itself in its promise and in its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from securefl.errors import OperatorFault
from securefl.protection import schemes
from securefl.terms import FixedPoint, ProtectionSpec, Scheme
from tests.support.worlds import identity


@pytest.mark.parametrize("scheme", Scheme)
def test_a_schemes_file_keeps_what_its_name_promises(scheme: Scheme, tmp_path: Path) -> None:
    spec = schemes.spec_of(scheme)
    assert spec.member().scheme == spec.coordinator().scheme == scheme
    assert (spec.key is not None) is scheme.has_custodian
    assert spec.coordinator().phases == scheme.has_masks + scheme.has_custodian, "shares are asked for, then the sum"
    cover = ProtectionSpec(scheme, 4, 3, 1, FixedPoint(24, 20, 40), None)
    assert ("UNSAFE" in spec.statement(cover, None)) is (not scheme.hides)
    assert (("the coordinator", "every update") in spec.powers(3)) is (not scheme.hides)
    assert scheme.masked.has_masks is scheme.has_masks or scheme.trusts_custodian
    if spec.key is None:
        with pytest.raises(OperatorFault, match="only ckks, bfv, masked-ckks and masked-bfv have a custodian"):
            schemes.key_holder(scheme, identity("custodian"), tmp_path)
    else:
        assert schemes.key_name(scheme) == spec.key.file
        assert schemes.key_holder(scheme, identity("custodian")).scheme == scheme


def test_a_scheme_that_nobody_named_has_no_default() -> None:
    for name in ("maskign", "", "encrypted", "schemes", "MASKING"):
        with pytest.raises(ValueError, match="is not a valid Scheme"):
            schemes.spec_of(name)
