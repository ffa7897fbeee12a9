"""Make a party's home and key, and write a SITE document that it can go on from. Nothing of another's is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from securefl import files, key_files
from securefl.documents import emit, site_file, strict
from securefl.errors import OperatorFault
from securefl.home import identity
from securefl.policy import load as policies
from securefl.site import node
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
# Of a federation with several tasks, in place of `data`: those that this site takes part in, and their records.
# tasks: {{FEDERATION: {{TASK: {{data: {{file: FILE, text: COLUMN, label: COLUMN}}}}}}}}
"""
_WITHOUT = "without_records: true         # it takes part with noise alone, to hide who owns records\n"
_NODE = """\
subfederation:                # in place of records: the federation that this site runs itself
  name: {name}              # as its own policy says
  home: coordinator           # folder of its coordinator's key and ledger: for this user alone, as `home`
  policy: {policy}          # its own, under that of the federation above: `parent: {{policy: FILE}}`
  rounds: 1                   # of its own for each one of the federation above
  protection: masking         # ckks or bfv need a `custodian:` here
  # patience: {{train: 600}}    # else what the federation above leaves it
  # Whom it invites, and the socket of each one's `securefl site serve`. Once this site is in the federation above:
  # `securefl site invite FILE`, then `securefl site join FILE ANSWER` for each, then `securefl site roster FILE`.
  members:
{members}"""
_CUSTODIAN = """\
# A SITE document of a custodian: it holds the decryption key of a federation, and has no records. It is yours: edit it.
# Check it with `securefl site check FILE`; `securefl site schema` has every field, for editors.
securefl_site: 1
name: custodian
home: home                    # folder of its keys and ledger: for this user alone

# Federations are joined by signed documents: `securefl site join FILE INVITATION`, and later the ROSTER.
"""


@dataclass(frozen=True, slots=True)
class Inside:
    """What a site that is a federation has in place of records."""

    policy: Path  # the sub-federation's own
    members: tuple[str, ...]

    def text(self) -> str:
        """The part of the document, with comments."""
        name = emit.scalar(policies.load(self.policy).federation)
        invited = "".join(
            f"    {emit.scalar(each)}: {{socket: {emit.scalar(f'sockets/{each}')}}}\n" for each in self.members
        )
        return _NODE.format(name=name, policy=emit.scalar(str(self.policy.resolve())), members=invited)


@dataclass(frozen=True, slots=True)
class Member:
    """What a member's first SITE document says."""

    name: str
    region: str
    model: str
    at: str
    data: str | None  # a file; None: it takes part without records, or has members of its own
    text: str = "text"
    label: str = "label"
    inside: Inside | None = None  # of a site that is a federation

    def document(self) -> str:
        """The document, with comments."""
        shown = {name: emit.scalar(getattr(self, name)) for name in ("name", "region", "model", "at", "text", "label")}
        records = _WITHOUT if self.inside is None else self.inside.text()
        if self.data is not None:
            records = _DATA.format(file=emit.scalar(self.data), **shown)
        return _MEMBER.format(dataset=shown["name"], records=records, **shown)


def init(place: Path, member: Member | None) -> tuple[Path, dict[str, PublicKey]]:
    """Make the document at ``place``, or in that folder, with its home and key; None makes a custodian's.

    Of a site that is a federation its coordinator's home and key are made as well: ``coordinator_key``.

    Raises:
        OperatorFault: something is there already, or the document would not pass its check. Nothing was made.
    """
    path = place if place.suffix in (".yaml", ".yml") else place / NAME
    if path.exists():
        raise OperatorFault("there is a document already", "choose another place, or edit it", str(path))
    text = (_CUSTODIAN if member is None else member.document()).encode()
    site = site_file.of(strict.parse(text, str(path)), path)
    homes = {"key": site.home}
    if site.file.subfederation is not None:
        homes["coordinator_key"] = node.of(site).home
    for home in homes.values():
        if identity.is_made(home):
            remedy = "choose another place; or move that home away, with its account"
            raise OperatorFault("a party has its home here already", remedy, str(home))
    wrong = [each for each in examine(site) if each.status == WRONG]
    if wrong:
        raise OperatorFault(tuple(f"{each.what}: {each.detail}; {each.remedy}" for each in wrong))
    keys = {}
    for name, home in homes.items():
        files.folder(home)
        keys[name] = key_files.load_or_create(identity.place(home)).public
    path.write_bytes(text)
    return path, keys
