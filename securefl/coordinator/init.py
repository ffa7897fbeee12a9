"""Make a coordinator's home and key, and write a COORDINATOR document that it can go on from."""

from __future__ import annotations

from pathlib import Path

from securefl import files, key_files
from securefl.documents import coordinator_file, emit, strict
from securefl.errors import OperatorFault
from securefl.home import identity
from securefl.policy import load as policies
from securefl.terms import PublicKey

NAME = "coordinator.yaml"  # where a folder is given

_TEXT = """\
# A COORDINATOR document: the federation that you run, and where each party answers. It is yours: edit it.
# Check it with `securefl coordinator check FILE`; `securefl coordinator schema` has every field, for editors.
securefl_coordinator: 1
name: {name}              # as the policy says
home: home                    # folder of your key and ledger: for this user alone; keep a backup of identity.key
policy: {policy}
purpose: {purpose}            # one that the policy allows
model: {{name: {model}, at: {at}}}  # what the policy calls it, and where it is here
# start: first.start          # `securefl start make`, by whoever has the model: then you need neither it nor torch

# What is trained: change this first. `securefl policy explain POLICY FILE` holds it against the policy.
task: {{kind: classification, labels: [other, urgent]}}
adapter: {{targets: [query, value], rank: 8}}
training:
  rounds: 5
  steps: 20
  sampling_rate: 1/20
  noise_multiplier: 1.0
  clip: 1.0
  divisor: 50
  learning_rate: 0.1
  max_tokens: 64
protection: masking           # ckks or bfv need a `custodian:` below
# Several tasks over this model, each with members of its own; `task`, `adapter` and `training` hold for all of them:
# tasks: {{TASK: {{members: [NAME, NAME, NAME], start: FILE, adapter: {{rank: 4}}}}}}

# Whom you invite, and the socket of each one's `securefl site serve`. Keys come with their answers:
# `securefl site invite FILE`, then `securefl site join FILE ANSWER` for each, then `securefl site roster FILE`.
members:
{members}"""


def init(place: Path, policy: Path, model: tuple[str, str], members: tuple[str, ...]) -> tuple[Path, PublicKey]:
    """Make the document at ``place``, or in that folder, with its home and key.

    Args:
        place: the document, or its folder.
        policy: the federation's policy, which stands already.
        model: what the policy calls the base model, and where it is here.
        members: names of those who will be invited.

    Raises:
        OperatorFault: something is there already, or is not as it must be. Nothing was made.
    """
    path = place if place.suffix in (".yaml", ".yml") else place / NAME
    if path.exists():
        raise OperatorFault("there is a document already", "choose another place, or edit it", str(path))
    agreed = policies.load(policy)
    fields = (agreed.federation, str(policy.resolve()), *model, agreed.context.purposes[0])
    named = dict(zip(("name", "policy", "model", "at", "purpose"), map(emit.scalar, fields), strict=True))
    invited = "".join(f"  {emit.scalar(each)}: {{socket: {emit.scalar(f'sockets/{each}')}}}\n" for each in members)
    text = _TEXT.format(members=invited, **named).encode()
    found = coordinator_file.of(strict.parse(text, str(path)), path)
    if identity.is_made(found.home):
        raise OperatorFault("a party has its home here already", "choose another place", str(found.home))
    files.folder(found.home)
    key = key_files.load_or_create(identity.place(found.home)).public
    path.write_bytes(text)
    return path, key
