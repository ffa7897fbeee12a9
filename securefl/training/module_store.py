"""Trained modules on disk, one for each task, all for one base model: a file of tensors and a manifest each.

A module for another base than its manifest names, or whose tensors are not those of its manifest, is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors.numpy import load, save

from securefl.documents.module_manifest import MANIFEST, TENSORS, Manifest
from securefl.errors import OperatorFault, Tampered
from securefl.training import adapter_tensors, token_rows
from securefl.training.built import Built
from securefl.training.prompt import pattern_of
from securefl.training.shapes import Shapes
from securefl.training.shared_base import Base
from securefl.training.step import Encoded, micro_batches

BATCH = 64  # texts that are read at once


def write(store: Path, manifest: Manifest, tensors: Mapping[str, tuple[int, ...]], adapter_state: bytes) -> None:
    """The store holds this module; an earlier one of its name is gone. ``tensors`` are a state's shapes, in order."""
    store.mkdir(parents=True, exist_ok=True)
    values, found, start = np.frombuffer(adapter_state, "<f4"), {}, 0
    for name, shape in tensors.items():
        size = int(np.prod(shape))
        found[name] = values[start : start + size].reshape(shape)
        start += size
    assert start == len(values), "a state holds its layout's tensors"
    data = save(found, {"order": json.dumps(list(found))})  # in which they are the state that was released
    signed = manifest.model_copy(update={"tensors": hashlib.sha256(data).hexdigest()})
    (store / f"{manifest.name}{MANIFEST}").unlink(missing_ok=True)  # tensors without a manifest are no module
    (store / f"{manifest.name}{TENSORS}").write_bytes(data)
    whole = store / f"{manifest.name}{MANIFEST}.new"  # half a manifest would be in the way of every other module
    whole.write_text(signed.model_dump_json(indent=1) + "\n", encoding="utf-8")
    whole.replace(store / f"{manifest.name}{MANIFEST}")


def manifests(store: Path) -> dict[str, Manifest]:
    """Every module of a store, by name.

    Raises:
        OperatorFault: there is none, or a manifest cannot be read.
    """
    found = {}
    for path in sorted(store.glob(f"*{MANIFEST}")):
        try:
            manifest = Manifest.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as fault:
            raise OperatorFault(
                "no manifest of a module", "give the folder `modules` of a run with tasks", str(path)
            ) from fault
        if path.stem != manifest.name:
            raise OperatorFault(f"the manifest of {manifest.name}", f"call it {manifest.name}{MANIFEST}", str(path))
        found[manifest.name] = manifest
    if not found:
        raise OperatorFault("no module here", "give the folder `modules` of a run with tasks", str(store))
    return found


@dataclass(frozen=True, slots=True)
class Answer:
    """What a task's model says of one text."""

    label: str
    probabilities: Mapping[str, float]


class Modules:
    """All tasks of a store, on one base model in memory. Switching tasks loads nothing twice."""

    def __init__(self, store: Path, base: Base) -> None:
        self._store, self._base, self._ready = store, base, dict[str, Built]()
        self.manifests = manifests(store)

    @classmethod
    def open(cls, store: Path, model: str | None = None) -> Modules:
        """The store, with the base model its modules name, or with the one at ``model``.

        Raises:
            OperatorFault: the base is not on this machine, or the store holds no module.
        """
        names = sorted({each.base.name for each in manifests(store).values()})
        if model is None and len(names) > 1:
            raise OperatorFault(f"modules for {' and '.join(names)}", "name one with --model", str(store))
        return cls(store, Base.load(model or names[0], Path.cwd() if model else store))

    def built(self, task: str) -> Built:
        """A task's model, ready to answer.

        Raises:
            OperatorFault: there is no such task, or its module was made for another base.
            Tampered: the tensors are not those the manifest speaks of.
        """
        if task not in self._ready:
            self._ready[task] = self._load(self._of(task))
        return self._ready[task]

    def answer(self, task: str, texts: Sequence[str]) -> list[Answer]:
        """Return what a task's model says of each text, in their order.

        Raises:
            OperatorFault, Tampered: as for ``built``.
        """
        built, manifest = self.built(task), self._of(task)
        prompt, most = manifest.task.prompt, manifest.max_tokens
        ids = token_rows.of(built, texts, most, None if prompt is None else pattern_of(prompt, built.tokenizer))
        encoded = Encoded(ids, (0,) * len(texts), token_rows.padding(built), shapes=Shapes(most))
        said = torch.zeros(len(texts), len(manifest.labels))
        with torch.no_grad():
            for part in micro_batches(encoded, range(len(texts)), BATCH):
                rows, mask, _ = encoded.batch(part)
                said[part] = built.model(rows, mask).softmax(1)
        return [
            Answer(manifest.labels[int(row.argmax())], dict(zip(manifest.labels, row.tolist(), strict=True)))
            for row in said
        ]

    def _of(self, task: str) -> Manifest:
        if task not in self.manifests:
            raise OperatorFault(f"no module for {task}", f"there are {', '.join(self.manifests)}", str(self._store))
        return self.manifests[task]

    def _load(self, manifest: Manifest) -> Built:
        path = self._store / f"{manifest.name}{TENSORS}"
        here = self._base.model
        if manifest.base.digest != here.digest.hex():
            what = f"{manifest.name} was made for the base {manifest.base.name} ({manifest.base.digest[:16]})"
            remedy = f"the base that is loaded, {here.name}, is {here.digest.hex()[:16]}: give its own with --model"
            raise OperatorFault(what, remedy, str(path))
        try:
            data = path.read_bytes()
        except OSError as fault:
            raise OperatorFault(f"cannot be read: {fault.strerror}", "write the store again", str(path)) from fault
        if hashlib.sha256(data).hexdigest() != manifest.tensors:
            raise Tampered(str(path), "these are not the tensors that the manifest speaks of")
        built = self._base.built(manifest.task, manifest.stands_as)
        found: dict[str, Any] = load(data)
        shapes = {name: tuple(each.shape) for name, each in found.items()}
        if shapes != {each.name: each.shape for each in built.layout.tensors}:
            raise Tampered(str(path), "these tensors are not those of the adapter that the manifest describes")
        flat = [found[each.name].astype("<f4").reshape(-1) for each in built.layout.tensors]
        adapter_tensors.load(built, np.concatenate(flat).tobytes())
        built.model.eval()
        return built
