"""A tokenizer's file is made of parts by which a text has one row, in memory that the text's length bounds."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from securefl.errors import OperatorFault
from securefl.training import model_documents, token_rows, tokenizer_parts
from tests.support import tiny_models

DOUBLED = {"type": "Replace", "pattern": {"String": "z"}, "content": "zz"}
SPACES = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u2581"}
MANY = {"type": "Replace", "pattern": {"Regex": "."}, "content": "x" * 30}
MARK = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def charsmap(*texts: str) -> str:
    trie = bytes(8)
    return base64.b64encode(len(trie).to_bytes(4, "little") + trie + "".join(f"{t}\0" for t in texts).encode()).decode()


def sequence(place: str, *parts: dict[str, Any]) -> dict[str, Any]:
    inside = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "post_processor": "processors"}[place]
    return {place: {"type": "Sequence", inside: list(parts)}}


def template(*pieces: str) -> dict[str, Any]:
    made = [
        {"Sequence": {"id": "A", "type_id": 0}} if piece == "A" else {"SpecialToken": {"id": piece}} for piece in pieces
    ]
    return {"post_processor": {"type": "TemplateProcessing", "single": made}}


GOOD = {
    "nothing at all": {},
    "as BERT has it": {"normalizer": {"type": "BertNormalizer"}, "pre_tokenizer": {"type": "BertPreTokenizer"}},
    "as GPT-2 has it": {"pre_tokenizer": LEVEL, "post_processor": LEVEL, "model": {"type": "BPE", "dropout": None}},
    "as Llama 3 has it": sequence("pre_tokenizer", {"type": "Split", "pattern": {"Regex": r"\p{N}{1,3}"}}, LEVEL),
    "as XLM-R has it": {
        **sequence("normalizer", {"type": "Precompiled", "precompiled_charsmap": charsmap("a" * 18)}, SPACES),
        **sequence("pre_tokenizer", {"type": "WhitespaceSplit"}, MARK),
    },
    "as CLIP has it": {
        **sequence("normalizer", {"type": "NFC"}, SPACES, {"type": "Lowercase"}),
        **sequence("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "[a-z]+"}}, LEVEL),
    },
    "as Qwen has it": {"normalizer": {"type": "NFC"}, "pre_tokenizer": LEVEL, "post_processor": LEVEL},
    "as Llama 2 has it": sequence(
        "normalizer", {"type": "Prepend", "prepend": "\u2581"}, {**SPACES, "pattern": {"String": " "}}
    ),
    "an older model": {"model": {"vocab": {}, "merges": []}},
    "a template": template("[CLS]", "A", "[SEP]"),
}
BAD = {
    "draws lots": ({"model": {"type": "BPE", "dropout": 0.5}}, "dropout"),
    "doubles ten times": (sequence("normalizer", *[DOUBLED] * 10), "times as long"),
    "bytes of bytes": (sequence("pre_tokenizer", *[LEVEL] * 7), "times as long"),
    "one character, many": ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap("a" * 73)}}, "times"),
    "a table that is none": ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "?"}}, "times as long"),
    "an empty match": (sequence("normalizer", {"type": "Replace", "pattern": {"Regex": ""}, "content": "a" * 72}), "times"),
    "eighteen of one, and more of each": (sequence("normalizer", {"type": "NFKC"}, MANY), "times as long"),
    "four of one, and more of each": (sequence("normalizer", {"type": "NFD"}, MANY), "times as long"),
    "much before each piece": ({"normalizer": {"type": "Prepend", "prepend": "p" * 72}}, "times as long"),
    "nothing before each piece": ({"normalizer": {"type": "Prepend"}}, "times as long"),
    "much for an unknown word": ({"model": {"type": "WordLevel", "unk_token": "u" * 65}}, "unknown word"),
    "much before a part of a word": ({"model": {"type": "WordPiece", "continuing_subword_prefix": "#" * 65}}, "each piece"),
    "much behind a word": ({"model": {"type": "BPE", "end_of_word_suffix": "w" * 65}}, "each piece"),
    "a text twice": (template("A", "A"), "does not stand once"),
    "no text": (template("[CLS]"), "does not stand once"),
    "a part of another name": ({"normalizer": {"type": "Python"}}, "not known"),
    "inside": (sequence("pre_tokenizer", sequence("pre_tokenizer", {"type": "Script"})["pre_tokenizer"]), "not known"),
}  # fmt: skip


@pytest.mark.parametrize("document", GOOD.values(), ids=GOOD)
def test_what_models_have_is_let_in(document: dict[str, Any]) -> None:
    assert tokenizer_parts.wrong(document) is None


@pytest.mark.parametrize(("document", "word"), BAD.values(), ids=BAD)
def test_what_answers_to_a_record_is_refused_by_what_it_is(document: dict[str, Any], word: str) -> None:
    found = tokenizer_parts.wrong(document)
    assert found is not None
    assert word in found[0]
    with pytest.raises(OperatorFault, match=word):
        model_documents.check(Path(), ["tokenizer.json"], "tokenizer.json", json.dumps(document).encode())


WORST = "\ufdfa\u1faf\u1faa\ufb2d\U0001d160\u0130\ufaff\ufafd\uac01\U000fffff\u33ae"  # of each form, and 4 bytes


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(WORST), max_size=20))
@settings(max_examples=200)
@example(WORST)
def test_no_part_makes_more_of_a_text_than_is_said_of_it(text: str) -> None:
    parts: dict[str, Any] = {name: getattr(normalizers, name)() for name in tokenizer_parts.LONGEST}
    for name, part in parts.items():
        for piece in (text, *text):
            assert len(part.normalize_str(piece)) <= tokenizer_parts.LONGEST[name] * len(piece), (name, piece)
    at_once = tokenizer_parts.LONGEST["ByteLevel"] + 1
    for piece in filter(None, (text, *text)):
        marked = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False).pre_tokenize_str(piece)
        assert sum(len(each) for each, _ in marked) <= at_once * len(piece)


@given(st.recursive(st.none() | st.integers() | st.text(max_size=4), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.sampled_from(["type", "normalizers", "pattern", "content", "single", "normalizer", "model", "post_processor"]), inner,
    max_size=4), max_leaves=12))  # fmt: skip
def test_whatever_a_file_holds_it_is_let_in_or_refused(document: Any) -> None:
    found = tokenizer_parts.wrong(document if isinstance(document, dict) else {})
    assert found is None or all(isinstance(each, str) for each in found)


def test_a_panic_in_the_tokenizers_own_language_is_of_its_text_alone(tmp_path: Path) -> None:
    """A pattern that gives up at one word, and nowhere else."""
    built = tiny_models.shared("bert", tmp_path)._built
    path = tmp_path / "tokenizer.json"
    told = json.loads(path.read_text())
    gives_up = {
        "type": "Split",
        "pattern": {"Regex": r"(?=.*zanzibar)(?:.|.)+\x00"},
        "behavior": "Isolated",
        "invert": False,
    }
    told["pre_tokenizer"] = sequence("pre_tokenizer", gives_up, told["pre_tokenizer"])["pre_tokenizer"]
    path.write_text(json.dumps(told))
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path), pad_token="[PAD]")
    text = "my seat was zanzibar and so very late today"
    with pytest.raises(BaseException, match=".") as raised:
        tokenizer([text])
    assert not isinstance(raised.value, Exception)
    object.__setattr__(built, "tokenizer", tokenizer)
    plain = token_rows.of(built, ["late"], 8)
    assert token_rows.of(built, ["late", text], 8) == (*plain, (0,))
