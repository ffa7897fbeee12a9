"""Rows without a label at a site: only a loss that needs none trains them, so a policy or a limit must allow one.

Which loss a plan has is known when it comes; then ``site.limits`` holds it to this before anything is reserved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from securefl.documents import strict
from securefl.documents.strategy import WITHOUT_LABELS
from securefl.errors import OperatorFault

if TYPE_CHECKING:
    from securefl.documents.site_file import Site
    from securefl.policy.load import Policy

NEEDED: Final = " or ".join(WITHOUT_LABELS)


def check(site: Site, policy: Policy) -> str:
    """Check that some loss that policy and site allow trains every row here; return what a person is told.

    Raises:
        OperatorFault: rows may have no label, and every loss that is allowed needs one.
    """
    data = site.file.data
    if data is None or not data.has_unlabelled:
        return "every row has one"
    allowed = set(policy.document.training.losses)
    own = allowed if site.file.limits.losses is None else allowed & set(site.file.limits.losses)
    if own & set(WITHOUT_LABELS):
        return f"rows may have none: plans with the loss {NEEDED} are taken, and no other"
    field = "unlabelled" if data.unlabelled == "keep" else "labelled"
    document = strict.read(site.path)
    where = (*site.source, field)
    place = f"{document.name}:{document.line_of(where)}: {'.'.join(map(str, where))}"
    losses = f"{', '.join(sorted(own)) or 'none'} of those that the policy of {policy.federation} allows"
    remedy = f"set `unlabelled: drop` and leave `labelled` out; or take part under a policy that allows {NEEDED}"
    raise OperatorFault(f"records without a label, and each loss needs one: {losses}", remedy, place)
