"""Make a party's home and key, and write a SITE document that it can go on from. Nothing of another's is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from securefl import files, key_files
from securefl.documents import emit, site_file, strict
from securefl.errors import OperatorFault
from securefl.home import identity
from securefl.site.check import WRONG, examine
from securefl.terms import PublicKey

NAME = "site.yaml"  # where a folder is given

_MEMBER = """\
# A SITE document: what this party owns, whom it trusts, and the most it lets a plan ask. It is yours: edit it.
# Check it with `securefl site check FILE`; `securefl site schema` has every field, for editors.
securefl_site: 1
name: {name}
region: {region}                    # policies name regions
home: home                    # folder of its key, ledger and account: for this user alone; back up identity.key

model:
  name: {model}     # what plans and policies call the base model
  at: {at}       # where it is here: a folder, a Hugging Face name in the cache, or distribution:NAME/PATH

dataset: {dataset}        # the account its budget is kept under. The same records are always the same account
{records}
limits:                       # refused before anything is reserved, whatever a policy allows
  micro_batch: {{at_most: 64}}  # records in memory at once
  # memory: {{at_most: 2000000000}}  # bytes beside the model
  # losses: [own-label]
  # sharing: [weights]          # what a plan may ask beside one plain sum

# Federations are joined by signed documents: `securefl site join FILE INVITATION`, and later the ROSTER.
# They stand in home/federations. Who has the keys by other means may write `federations:` here instead.
"""
_DATA = """\
data:
  file: {file}       # CSV, TSV or JSON Lines
  text: {text}                  # the column with the text
  label: {label}                # the column with the label
  heldout: 0.2                # share that is never trained on
"""
_WITHOUT = "without_records: true         # it takes part with noise alone, to hide who owns records\n"
_CUSTODIAN = """\
# A SITE document of a custodian: it holds the decryption key of a federation, and has no records. It is yours: edit it.
# Check it with `securefl site check FILE`; `securefl site schema` has every field, for editors.
securefl_site: 1
name: custodian
home: home                    # folder of its keys and ledger: for this user alone

# Federations are joined by signed documents: `securefl site join FILE INVITATION`, and later the ROSTER.
"""


@dataclass(frozen=True, slots=True)
class Member:
    """What a member's first SITE document says."""

    name: str
    region: str
    model: str
    at: str
    data: str | None  # a file; None: it takes part without records
    text: str = "text"
    label: str = "label"

    def document(self) -> str:
        """The document, with comments."""
        shown = {name: emit.scalar(getattr(self, name)) for name in ("name", "region", "model", "at", "text", "label")}
        records = _WITHOUT if self.data is None else _DATA.format(file=emit.scalar(self.data), **shown)
        return _MEMBER.format(dataset=shown["name"], records=records, **shown)


def init(place: Path, member: Member | None) -> tuple[Path, PublicKey]:
    """Make the document at ``place``, or in that folder, with its home and key; None makes a custodian's.

    Raises:
        OperatorFault: something is there already, or the document would not pass its check. Nothing was made.
    """
    path = place if place.suffix in (".yaml", ".yml") else place / NAME
    if path.exists():
        raise OperatorFault("there is a document already", "choose another place, or edit it", str(path))
    text = (_CUSTODIAN if member is None else member.document()).encode()
    site = site_file.of(strict.parse(text, str(path)), path)
    if identity.is_made(site.home):
        remedy = "choose another place; or move that home away, with its account"
        raise OperatorFault("a party has its home here already", remedy, str(site.home))
    wrong = [each for each in examine(site) if each.status == WRONG]
    if wrong:
        raise OperatorFault(tuple(f"{each.what}: {each.detail}; {each.remedy}" for each in wrong))
    files.folder(site.home)
    key = key_files.load_or_create(identity.place(site.home)).public
    path.write_bytes(text)
    return path, key
