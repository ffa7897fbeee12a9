"""Whatever is wrong with a model's files is said by name, before anything is reserved: no library's words are a crash."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from securefl.errors import OperatorFault
from securefl.training import trial
from securefl.training.foreign import others_code
from securefl.training.model import base_of
from tests.support.tiny_models import saved

POINTER = "version https" + "://git-lfs.example/spec/v1\noid sha256:" + 64 * "0" + "\nsize 440449768\n"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved("bert", tmp_path / "model")


def weights(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def changed(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return changed


def config(**fields: object) -> Callable[[Path], object]:
    def changed(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return changed


def tokenizer(**fields: object) -> Callable[[Path], object]:
    def changed(folder: Path) -> None:
        path = folder / "tokenizer.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return changed


def not_a_number(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.layer.1.output.dense.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def shard(folder: Path) -> None:
    """An index, and a shard that was never fetched."""
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-1.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model-1.safetensors").write_text(POINTER)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (folder / "pytorch_model.bin").write_text(POINTER)


HEADER = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": "all"}}).encode()
FAULTS = {
    "a placeholder of git-lfs": (weights(lambda _: POINTER.encode()), "placeholder of git-lfs.*git lfs pull"),
    "a shard that is one": (shard, "`model-1.safetensors` is a placeholder of git-lfs"),
    "a pickle that is one": (pickled, "`pytorch_model.bin` is no safetensors file"),
    "cut in its header": (weights(lambda whole: whole[:60]), "ends within its header.*copy the file again"),
    "cut behind its header": (weights(lambda whole: whole[:-9]), "bytes where its header says.*copy the file again"),
    "longer than it says": (weights(lambda whole: whole + b"more"), "bytes where its header says"),
    "empty": (weights(lambda _: b""), "ends within its header, at 0 bytes"),
    "no header": (weights(lambda _: len(HEADER).to_bytes(8, "little") + HEADER), "no safetensors header"),
    "another size": (config(intermediate_size=64), "is 48 in the file and 64 by config.json"),
    "another width": (config(hidden_size=64), "by config.json; use weights and config.json of one model"),
    "heads that do not divide it": (config(num_attention_heads=5), "no model that can be loaded: .*multiple"),
    "a field of another type": (config(num_hidden_layers="two"), "no model that can be loaded: "),
    "an architecture nobody knows": (config(model_type="newer"), "no model that can be loaded: .*newer"),
    "4 bits": (config(quantization_config={"quant_method": "bitsandbytes"}), "bitsandbytes: a quantized base"),
    "GPTQ": (config(quantization_config={"quant_method": "gptq", "bits": 4}), "gptq: a quantized base"),
    "an unnamed method": (config(quantization_config={"bits": 4}), "no model that can be loaded: .*quant"),
    "no number": (not_a_number, "`encoder.layer.1.output.dense.weight` is not finite"),
    "a newer tokenizer": (tokenizer(model={"type": "SomethingNew"}), "'SomethingNew' as a `model`"),
    "a tokenizer cut short": (tokenizer(model={"type": "BPE"}), "no tokenizer that can be loaded: "),
    "a decoder of a newer kind": (tokenizer(decoder={"type": "Newer"}), "no tokenizer that can be loaded: "),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_files_is_named_and_is_the_operators(model: Path, name: str) -> None:
    spoil, told = FAULTS[name]
    spoil(model)
    with pytest.raises(OperatorFault, match=told) as refused:
        base_of(model)
    assert refused.value.remedy
    assert str(model) in str(refused.value)
    for word in ("ignore_mismatched_sizes", "weights_only", "pip install", "Traceback"):
        assert word not in str(refused.value)


def test_our_own_mistakes_and_a_full_memory_are_no_faults_of_the_files() -> None:
    for own in (AssertionError("a bug"), MemoryError(), KeyboardInterrupt()):
        with pytest.raises(type(own)), others_code("it cannot be read", "mend it", "here"):
            raise own


def test_a_librarys_words_are_one_plain_short_line() -> None:
    with pytest.raises(OperatorFault) as told, others_code("it cannot be read", "mend it", "here"):
        raise RuntimeError("\n\n  one \x1b[31mline\n" + "more\n" * 500)
    assert str(told.value) == "here: it cannot be read: one \\x1b[31mline (RuntimeError); mend it"


def test_what_may_be_infinite_is_no_weight() -> None:
    layer = torch.nn.Linear(2, 2)
    layer.register_buffer("mask", torch.tensor([float("-inf")]))
    trial.check_finite(layer, "m")
