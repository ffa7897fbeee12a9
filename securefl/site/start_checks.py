"""Before a live site answers: nothing that `securefl site check` finds wrong stands, and its warnings are said."""

from __future__ import annotations

from typing import TYPE_CHECKING

from securefl.documents.finding import MISSING, OK, WRONG
from securefl.errors import OperatorFault
from securefl.site.check import AGES, examine

if TYPE_CHECKING:
    from securefl.documents.site_file import Site
    from securefl.progress import Progress


def check(site: Site, shown: Progress) -> None:
    """Check that a site may begin to answer, and say what its operator should know.

    Keys that are too old do not keep it away: each round refuses them by name, and a notice may come meanwhile.

    Raises:
        OperatorFault: something is wrong that a run would trip over; each with what would do.
    """
    found = examine(site)
    wrong = [each for each in found if each.status == WRONG and not each.what.startswith(AGES)]
    if wrong:
        raise OperatorFault(tuple(f"{each.what}: {each.detail}; {each.remedy}" for each in wrong))
    for each in found:
        if each.status not in (OK, MISSING):
            shown.say(f"WARNING: {each.what}: {each.detail}" + (f"; {each.remedy}" if each.remedy else ""))
