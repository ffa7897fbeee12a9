"""The files of a base model: which of them are read, what pins them, and which models are refused by their files.

A file that stands in the folder itself is one that a loader reads, or one that none does, by its name. Any other is
refused. Loaders look into a folder below only for shards that an index names, and for templates. The digest covers
every file, also those below, except those that no loader reads (``UNREAD``). No document of a model may lead to another
file (`model_documents`). Code of a model is never run, weights are safetensors alone, and an adapter is no base.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from securefl.errors import Missing, OperatorFault, Tampered
from securefl.terms import Hash
from securefl.training import model_documents, weight_files
from securefl.training.sources import resolve

UNREAD: Final = frozenset({".md", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".pdf"})  # kinds no loader reads
UNREAD_NAMES: Final = frozenset({".gitattributes", ".gitignore", "LICENSE", "LICENSE.txt", "NOTICE", "NOTICE.txt"})
UNREAD_FOLDERS: Final = frozenset({".git", ".cache", "__pycache__"})  # not covered, so nothing in them may be named
# kinds of weights that are not safetensors
WEIGHTS: Final = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".ot", ".gguf", ".onnx")
ADAPTERS: Final = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
# what decides what is computed, by the names that loaders have for it
READ: Final = re.compile(
    r"(generation_|tokenizer_|processor_|(video_)?preprocessor_|feature_extractor_)?config\.json|tokenizer(\.[\d.]+)?\.json|"
    r"(special_tokens_map|added_tokens|vocab|chat_template|tekken|quantize_config)\.json|chat_template\.jinja|"
    r"vocab\.txt|merges\.txt|dict\.txt|bpe\.codes|[\w.-]+\.(model(\.v\d+)?|spm|tiktoken)|"
    r"[\w.-]+\.safetensors(\.index\.json)?|adapter_config\.json"
)
# what no loader here opens: weights of other kinds, code, what is hidden, and what trainers and people leave
NOT_READ: Final = re.compile(
    r"\..*|[\w.-]+\.(py|bin|bin\.index\.json|pt|pth|ckpt|h5|msgpack|ot|gguf|onnx|tflite|mlmodel|pkl|log)|"
    r"(LICEN[SC]E|NOTICE|README|USE_POLICY|COPYING|CITATION|requirements)[\w.-]*|events\.out\.tfevents\.[\w.-]*"
)
CHUNK: Final = 1 << 20  # bytes read at once


def folder_of(found: Path | str) -> Path:
    """The folder a model is loaded from: a path as it is, or the local cache's copy of a Hugging Face name.

    Raises:
        Missing: it is not on this machine.
    """
    if isinstance(found, Path):
        return found
    from huggingface_hub import snapshot_download  # noqa: PLC0415

    try:
        return Path(snapshot_download(found, local_files_only=True))
    except (OSError, ValueError) as fault:
        raise Missing("this model is not on this machine", "fetch it first; nothing is fetched here", found) from fault


def model_digest(found: Path | str) -> Hash:
    """SHA-256 over the path and the bytes of every covered file, once the model is one that can be pinned.

    Raises:
        Missing: there is no model.
        OperatorFault: it needs its own code, is an adapter, has no safetensors, or names a file outside its folder.
    """
    folder = folder_of(found)
    files = _covered(folder)
    _check(folder, files)
    total = hashlib.sha256(b"model 2\0")
    for inside, path in sorted(files.items()):
        total.update(len(inside.encode()).to_bytes(4, "big") + inside.encode() + _hashed(path))
    return Hash(total.digest())


def pinned(name: str, folder: Path) -> tuple[Path | str, Hash]:
    """Where the model of this name or place is, and its digest.

    Raises:
        Missing: it is not on this machine; with the places that were looked at, and what is called nearly so.
        OperatorFault: as for ``model_digest``.
    """
    found = resolve(name, folder)
    try:
        return found, model_digest(found)
    except Missing as fault:
        if isinstance(found, Path):
            raise
        near = [each.name for each in folder.iterdir() if (each / "config.json").is_file()] if folder.is_dir() else []
        close = difflib.get_close_matches(name, near, 1)
        what = f"no folder {folder / name} is here, and no model of this name is in the Hugging Face cache"
        remedy = (
            f"did you mean `./{close[0]}`?" if close else "write a path, or fetch it first; nothing is fetched here"
        )
        raise Missing(what, remedy, name) from fault


def check_unchanged(found: Path | str, digest: Hash) -> None:
    """Check that the files that were just loaded are those of this digest.

    Raises:
        Tampered: they changed between being pinned and being loaded.
    """
    now = model_digest(found)
    if now != digest:
        what = f"the model's files changed while it was loaded: {digest.hex()[:16]} became {now.hex()[:16]}"
        raise Tampered(str(found), what)


def _hashed(path: Path) -> bytes:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(CHUNK):
            found.update(part)
    return found.digest()


def _covered(folder: Path) -> dict[str, Path]:
    """Every file that could be read, by its path inside the folder. A link to a file counts as what it points to."""
    if not folder.is_dir():
        raise Missing("no model here", "a folder with config.json and weights is expected", str(folder))
    files = dict(_walk(folder, PurePosixPath()))
    if "config.json" not in files and not any(name in files for name in ADAPTERS):
        raise Missing("no model here", "a folder with config.json and weights is expected", str(folder))
    return files


def _walk(folder: Path, inside: PurePosixPath) -> Iterator[tuple[str, Path]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            name, path = inside / entry.name, Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in UNREAD_FOLDERS:
                    yield from _walk(path, name)
            elif entry.is_file():
                if entry.name not in UNREAD_NAMES and path.suffix.lower() not in UNREAD:
                    yield str(name), path
            else:
                what = f"`{name}` is neither a file nor a folder: what it leads to cannot be pinned"
                raise OperatorFault(what, "copy the model's files into the folder, without linked folders", str(folder))


def _check(folder: Path, files: dict[str, Path]) -> None:
    """Check that everything a loader would read is covered, and is no code.

    Raises:
        OperatorFault: naming the file and the remedy.
    """
    adapters = [name for name in ADAPTERS if name in files]
    if adapters:
        what = f"`{adapters[0]}`: this is an adapter, not a base model"
        remedy = "name the base model it stands on, or merge the two and save the whole model"
        raise OperatorFault(what, remedy, str(folder))
    for name, path in files.items():
        known = (
            "/" in name or READ.fullmatch(name) or NOT_READ.fullmatch(name) or model_documents.UNREAD.fullmatch(name)
        )
        if not known:
            what = f"`{name}` is no file of a model that is known: nothing says whether a loader reads it"
            remedy = f"run: rm {folder / name}; or move it into a folder of its own, where no loader looks"
            raise OperatorFault(what, remedy, str(folder))
        if name.endswith(".json"):
            model_documents.check(folder, files, name, path.read_bytes())
        if name.endswith(".safetensors") and "/" not in name:  # of others, what a loader says is told
            weight_files.check(path)
    if not any(name.endswith(".safetensors") and "/" not in name for name in files) and not any(
        name.endswith(".safetensors.index.json") and "/" not in name for name in files
    ):
        others = [name for name in files if name.endswith(WEIGHTS)]
        what = f"`{others[0]}` is no safetensors file, and such weights are not read" if others else "no weights here"
        remedy = "save the model again with safe_serialization=True" if others else "put model.safetensors there"
        raise Missing(f"no model that can be loaded: {what}", remedy, str(folder))
