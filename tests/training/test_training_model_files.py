"""What pins a base model, and which models are refused by their files before anything is opened or charged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from securefl.errors import Missing, OperatorFault, Tampered
from securefl.training.model import base_of, build, loaded
from securefl.training.model_files import check_unchanged, model_digest
from securefl.training.shared_base import Base
from tests.support.small import Small
from tests.support.tiny_models import TASK, adapter, saved


@pytest.fixture
def model(tmp_path):
    return saved("bert", tmp_path / "model")


def sharded(folder: Path, place: str = "deep/w.safetensors") -> Path:
    """The same weights, as an index and one shard; where the shard is."""
    tensors = load_file(folder / "model.safetensors")
    shard = folder / place
    shard.parent.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").rename(shard)
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(tensors, place)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return shard


def moved(shard: Path) -> None:
    save_file({name: each + 1 for name, each in load_file(shard).items()}, shard, metadata={"format": "pt"})


def test_shards_in_a_subfolder_are_pinned_and_loaded(model):
    shard = sharded(model)
    first, before = model_digest(model), dict(base_of(model)[0].named_parameters())
    moved(shard)
    after = dict(base_of(model)[0].named_parameters())
    assert all(not before[name].equal(after[name]) for name in before)
    assert model_digest(model) != first


@pytest.mark.parametrize("name", [
    "added_tokens.json", "special_tokens_map.json", "chat_template.jinja", "additional_chat_templates/x.jinja", "vocab.txt",
    "merges.txt", "spiece.model", "modeling_x.py", "generation_config.json", "deep/deeper/w.safetensors", "w.bin", ".hidden",
])  # fmt: skip
def test_every_file_that_could_be_read_is_pinned_by_name_and_bytes(model, name):
    first = model_digest(model)
    (model / name).parent.mkdir(parents=True, exist_ok=True)
    (model / name).write_text("{}")
    second = model_digest(model)
    (model / name).write_text("[]")
    assert len({first, second, model_digest(model)}) == 3


@pytest.mark.parametrize(
    "name", ["README.md", "picture.PNG", ".gitattributes", "LICENSE", ".git/x", "__pycache__/x.pyc"]
)
def test_what_no_loader_reads_changes_no_digest(model, name):
    first = model_digest(model)
    (model / name).parent.mkdir(parents=True, exist_ok=True)
    (model / name).write_text("anything")
    assert model_digest(model) == first


def test_a_linked_file_counts_as_what_it_points_to(model, tmp_path):
    """As in the local cache of Hugging Face, where every file of a snapshot is a link to a blob."""
    first, blob = model_digest(model), tmp_path / "blob"
    (model / "model.safetensors").rename(blob)
    (model / "model.safetensors").symlink_to(blob)
    assert model_digest(model) == first
    moved(blob)
    assert model_digest(model) != first


def test_a_linked_folder_is_refused(model, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (model / "deep").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OperatorFault, match="`deep` is neither a file nor a folder"):
        model_digest(model)


@pytest.mark.parametrize("place", ["../w.safetensors", "README.md", ".git/w.safetensors", "absent.safetensors"])
def test_shards_that_are_not_pinned_are_refused(model, place):
    shard = sharded(model, place)
    if place.startswith("absent"):
        shard.unlink()
    with pytest.raises(OperatorFault, match="names the weights `.*`, which are no file of this model"):
        model_digest(model)


@pytest.mark.parametrize(("name", "key", "value"), [
    ("tokenizer_config.json", "spm_file", "../x.model"), ("tokenizer_config.json", "fast_tokenizer_files", ["../x.model"]),
    ("config.json", "vocab_file", {"a": "../x.model"}),
])  # fmt: skip
def test_files_named_outside_the_folder_are_refused(model, name, key, value):
    (model.parent / "x.model").write_text("x")
    document = json.loads((model / name).read_text())
    (model / name).write_text(json.dumps({**document, key: value}))
    with pytest.raises(OperatorFault, match=rf"`{name}` names '../x.model' as `{key}`"):
        model_digest(model)


OPENED = [
    ("byte_maps.json", {"decompose_map": "rules"}), ("byte_maps.json", {"anything": "rules.JSON"}), ("byte_maps.json", {"merge_map": "my rules.json"}),
    ("tokenizer_config.json", {"anything": "rules.dat"}), ("tokenizer_config.json", {"mecab_option": "-d dic -r rc"}),
    ("tokenizer_config.json", {"vocab": "/x.txt"}), ("tokenizer_config.json", {"vocab": "x"}), ("tokenizer_config.json", {"merges": "x.txt"}),
    ("tokenizer_config.json", {"init_inputs": ["x"]}), ("tokenizer_config.json", {"init_inputs": [{"a": 1}]}),
    ("tokenizer_config.json", {"vocab_file": "vocab.txt"}), ("tokenizer_config.json", {"tokenizer_file": "tokenizer.json"}),
    ("tokenizer_config.json", {"sp_model_kwargs": {"model_file": "x"}}), ("tokenizer_config.json", {"a": [{"b": [["/x"]]}]}),
    ("tokenizer_config.json", {"gguf_file": "x.gguf"}), ("tokenizer_config.json", {"anything": "C:\\\\x"}), ("tokenizer_config.json", {"anything": "~/x"}),
    ("tokenizer_config.json", {"fast_tokenizer_files": ["tokenizer.4.0.0.json"]}), ("tokenizer_config.json", {"anything": "a/../../x"}),
    ("special_tokens_map.json", {"vocab": "/x"}), ("special_tokens_map.json", {"spm_file": "x"}), ("generation_config.json", {"any": "file:///x"}),
    ("config.json", {"text_config": {"deep": [{"weights_path": "x"}]}}), ("config.json", {"anything": "other.safetensors"}),
    ("config.json", {"architecture": "local-dir:/x"}), ("config.json", {"text_config": {"auto_map": {"AutoModel": "x.X"}}}),
    ("config.json", {"_attn_implementation": "somebody/kernels"}), ("config.json", {"attn_implementation": {"text_config": "some/body@x:y"}}),
    ("byte_maps.json", {"decompose_map": "/x"}), ("byte_maps.json", {"decompose_map": "x.json"}), ("deep/processor_config.json", {"vocab": "x"}),
    ("tokenizer.json", {"model": {"type": "WordPiece", "vocab": "x"}}), ("tokenizer.4.0.0.json", {"model": {"vocab": "/x"}}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "fields"), OPENED, ids=[f"{name} {fields}" for name, fields in OPENED])
def test_a_value_that_may_be_opened_is_refused_at_any_depth_whatever_is_on_this_machine(model, name, fields):
    path = model / name
    path.parent.mkdir(exist_ok=True)
    model_digest(model)
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **fields}))
    with pytest.raises(
        OperatorFault, match=f"`{name}` (names|has|is no file) .*(`{next(iter(fields))}`|`.*`|known)"
    ) as caught:
        model_digest(model)
    assert caught.value.remedy


UNKNOWN = [
    ("tokenizer_config.json", {"anything": "rules"}), ("tokenizer_config.json", {"a": {"b": ["deep", "er"]}}),
    ("tokenizer_config.json", {"option": "-d rules -r rc"}), ("special_tokens_map.json", {"sp_model_kwargs": {"x": "rules"}}),
    ("config.json", {"anything": "deep/rules"}), ("config.json", {"text_config": {"backbone": "some/weights"}}),
    ("generation_config.json", {"anything": "a\\b"}), ("config.json", {"anything": "|cat x"}), ("config.json", {"a": ["@x"]}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "fields"), UNKNOWN, ids=[f"{name} {fields}" for name, fields in UNKNOWN])
def test_a_text_of_which_nothing_is_known_is_refused(model, name, fields):
    path = model / name
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **fields}))
    with pytest.raises(
        OperatorFault, match=f"`{name}` has .*(nothing says that no tokenizer|which is no word)"
    ) as caught:
        model_digest(model)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "name", ["rules", "rules.txt", "x.json", "byte_maps.json", "dictionary.dic", "vocab.txt.old", "x.dat"]
)
def test_a_file_of_which_nothing_is_known_is_refused_and_the_remedies_help(model, name):
    first = model_digest(model)
    (model / name).write_text("{}")
    with pytest.raises(OperatorFault, match=f"`{name}` is no file of a model that is known.*rm .*{name}"):
        model_digest(model)
    (model / "apart").mkdir()
    (model / name).rename(model / "apart" / name)
    second = model_digest(model)
    (model / "apart" / name).unlink()
    assert first == model_digest(model) != second


KEPT = [
    ("config.json", {"hidden_act": "gelu_new", "architectures": ["XForY"], "task_specific_params": {"t": {"prefix": "to German: /"}}}),
    ("config.json", {"torch_dtype": "bfloat16", "transformers_version": "4.48.0.dev0", "quantization_config": {"skip": ["model.layers.0"]}}),
    ("tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "model_input_names": ["input_ids"], "src_lang": "en_XX", "errors": "replace"}),
    ("config.json", {"_name_or_path": "/srv/somebody/run", "text_config": {"_name_or_path": "../x"}, "id2label": {"0": "/m/09x0r"}}),
    ("tokenizer_config.json", {"name_or_path": "/srv/x", "special_tokens_map_file": "/opt/x.json", "pad_token": "/", "chat_template": "/{{ x }}/.."}),
    ("tokenizer_config.json", {"additional_special_tokens": ["/think", "~"], "added_tokens_decoder": {"5": {"content": "/x.txt"}}}),
    ("tokenizer_config.json", {"fast_tokenizer_files": ["tokenizer.json"], "vocab": {"/x": 1}, "merges": ["/ x"], "padding_side": "right"}),
    ("modules.json", [{"idx": 0, "path": "", "type": "x.Transformer"}, {"idx": 1, "path": "1_Pooling"}]),
    ("trainer_state.json", {"best_model_checkpoint": "/content/x"}), ("vocab.json", {"/x": 1, "vocab": 2}),
    ("tokenizer.json", {"model": {"vocab": [["/x", -1.5], ["..", 0]], "merges": ["/ x"]}, "added_tokens": [{"id": 1, "content": "~"}]}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given"), KEPT, ids=[f"{name} {given}" for name, given in KEPT])
def test_what_no_loader_opens_is_let_be(model, name, given):
    path = model / name
    path.write_text(
        json.dumps(
            given if isinstance(given, list) else {**(json.loads(path.read_text()) if path.exists() else {}), **given}
        )
    )
    model_digest(model)


@pytest.mark.parametrize("written", ["{", "[" * 100_000, '{"a": \xff}'])
def test_a_document_that_is_not_understood_is_refused(model, written):
    (model / "special_tokens_map.json").write_bytes(written.encode("latin-1"))
    with pytest.raises(OperatorFault, match=r"`special_tokens_map.json` is no JSON, or too deep"):
        model_digest(model)


def test_a_saved_tokenizer_and_model_are_read_and_so_is_what_the_remedy_leaves(model):
    """The remedy of a refusal was tried: the field is removed, and the folder's own files are found."""
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(model).save_pretrained(model)
    first = base_of(model)[1]("abc")["input_ids"]
    path = model / "tokenizer_config.json"
    kept = path.read_text()
    path.write_text(json.dumps({**json.loads(kept), "tokenizer_file": "tokenizer.json"}))
    with pytest.raises(OperatorFault, match="remove `tokenizer_file`"):
        model_digest(model)
    path.write_text(kept)
    assert base_of(model)[1]("abc")["input_ids"] == first


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer_config.json", "generation_config.json", "processor_config.json"]
)
def test_a_model_with_its_own_code_is_refused_by_every_way_to_name_it(model, name):
    path = model / name
    document = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**document, "auto_map": {"AutoConfig": "configuration_x.X"}}))
    with pytest.raises(OperatorFault, match="this model needs its own code, which is not run"):
        build(model, TASK, adapter("bert"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "tf_model.h5"])
def test_weights_that_are_not_safetensors_are_refused_by_name(model, name):
    (model / "model.safetensors").rename(model / name)
    with pytest.raises(Missing, match=f"`{name}` is no safetensors file.*safe_serialization=True"):
        model_digest(model)


@pytest.mark.parametrize("named", ["../w.safetensors", "absent.safetensors", "adapter.bin"])
def test_weights_that_the_configuration_names_are_files_of_the_model(model, named):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "transformers_weights": named}))
    with pytest.raises(OperatorFault, match="no safetensors file of this model"):
        model_digest(model)


def test_files_that_change_after_they_were_pinned_are_refused(model):
    pinned = Base.load(str(model), model.parent)
    moved(model / "model.safetensors")
    with pytest.raises(Tampered, match="changed while it was loaded"):
        pinned.form()
    check_unchanged(model, model_digest(model))


def test_files_that_change_while_they_are_loaded_are_refused(model):
    """The change comes between the digest and the weights: the loader opens what is there then."""
    from transformers import AutoModel

    class Swapping:
        @staticmethod
        def from_pretrained(*args, **more):
            moved(model / "model.safetensors")
            return AutoModel.from_pretrained(*args, **more)

    with pytest.raises(Tampered, match="changed while it was loaded"):
        loaded(Swapping, model, None)


def test_a_model_that_is_loaded_no_longer_depends_on_its_files(model):
    """Weights are mapped into memory: who writes into the file would change a model that was checked."""
    loaded_, _ = base_of(model)
    before = {name: each.clone() for name, each in loaded_.named_parameters()}
    weights = model / "model.safetensors"
    data = weights.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    with weights.open("r+b") as file:
        file.seek(start)
        file.write(bytes(len(data) - start))
    assert all(before[name].equal(each) for name, each in loaded_.named_parameters())


def command(small: Small, name: str) -> subprocess.CompletedProcess[str]:
    """`securefl run`, at a terminal where everything that is asked is answered with yes."""
    path = small.file(name)
    return subprocess.run(
        [sys.executable, "-m", "securefl", "run", str(path), "--out", str(small.folder / "run")],
        input="y\n" * 8, capture_output=True, text=True, cwd=small.folder, env={**os.environ, "HF_HUB_OFFLINE": "1"},
        timeout=120, check=False,
    )  # fmt: skip


def test_code_of_a_model_is_never_asked_about_and_never_run(tmp_path):
    small, ran = Small(tmp_path), tmp_path / "ran"
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config |= {
        "model_type": "x-own",
        "auto_map": {"AutoConfig": "configuration_x.XConfig", "AutoModel": "configuration_x.X"},
    }
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    (tmp_path / "model" / "configuration_x.py").write_text(f"from pathlib import Path\nPath({str(ran)!r}).touch()\n")
    ended = command(small, "own-code.yaml")
    assert ended.returncode == 2
    assert "this model needs its own code, which is not run" in ended.stderr
    assert "[y/N]" not in ended.stdout + ended.stderr
    assert not ran.exists()
    assert not list(tmp_path.glob("sites/*/*"))  # before anybody had a home


def test_an_adapter_is_no_base_and_that_is_said_before_anything_is_charged(tmp_path):
    small, base = Small(tmp_path), tmp_path / "model"
    base.rename(tmp_path / "base")
    base.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (base / name).write_bytes((tmp_path / "base" / name).read_bytes())
    (base / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "../base"}))
    (base / "adapter_model.safetensors").write_bytes(b"")
    ended = command(small, "adapter.yaml")
    assert ended.returncode == 2
    assert "this is an adapter, not a base model" in ended.stderr
    assert not list(tmp_path.glob("sites/*/*"))
    (base / "config.json").write_bytes((tmp_path / "base" / "config.json").read_bytes())
    with pytest.raises(OperatorFault, match="this is an adapter, not a base model"):
        model_digest(base)
