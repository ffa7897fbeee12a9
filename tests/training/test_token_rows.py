"""Rows of token ids fit their model, whatever a tokenizer's file says, and each follows from its own text alone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from securefl.errors import OperatorFault
from securefl.training import token_rows
from securefl.training.built import Built
from securefl.training.prompt import Pattern
from tests.support import tiny_models

HOLE = 500  # an id that no tiny model has an embedding for
MOST = 12
TEXTS = st.lists(st.text("abz9! é\n", max_size=40), max_size=5)
PATTERN = Pattern((2, 5), (6, 3), " ", 7)


def spoiled(folder: Path, how: str) -> PreTrainedTokenizerFast:
    """A tokenizer that is read from a file somebody changed by hand."""
    tiny_models.tokenizer().save_pretrained(folder)
    path = folder / "tokenizer.json"
    told = json.loads(path.read_text())
    if how == "hole":
        told["model"]["vocab"]["z"] = HOLE
    elif how == "twice":
        start, text, end = told["post_processor"]["single"]
        told["post_processor"]["single"] = [start, text, text, text, end]
    elif how == "unknown":
        told["model"]["unk_token"] = "[NONE]"
    path.write_text(json.dumps(told))
    return PreTrainedTokenizerFast(tokenizer_file=str(path), pad_token="[PAD]")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return tiny_models.shared("bert", tmp_path_factory.mktemp("model"))._built


@pytest.fixture(scope="module", params=["sound", "hole", "twice", "unknown"])
def any_built(built: Built, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return replace(built, tokenizer=spoiled(tmp_path_factory.mktemp("tokenizer"), request.param))


@given(texts=TEXTS, in_pattern=st.booleans())
def test_every_row_fits_and_follows_from_its_own_text_alone(
    any_built: Built, texts: list[str], in_pattern: bool
) -> None:
    pattern = PATTERN if in_pattern else None
    rows = token_rows.of(any_built, texts, MOST, pattern)
    assert len(rows) == len(texts)
    for text, row in zip(texts, rows, strict=True):
        assert 1 <= len(row) <= MOST
        assert all(0 <= each < 128 for each in row)
        assert token_rows.of(any_built, [text], MOST, pattern) == (row,)
        assert pattern is None or (row[:2], row[-2:]) == (PATTERN.before, PATTERN.behind)


def test_a_sound_tokenizers_rows_are_its_own(built: Built) -> None:
    texts = ["a flight to z", "", "late again!"]
    assert token_rows.of(built, texts, 8) == tuple(
        map(tuple, built.tokenizer(texts, truncation=True, max_length=8)["input_ids"])
    )


def test_what_each_fault_of_a_tokenizer_would_have_done(built: Built, tmp_path: Path) -> None:
    """The faults are real: without rows that fit, each of these ends a training at one record."""
    folders = {how: tmp_path / how for how in ("hole", "twice", "unknown")}
    hole, twice, unknown = (spoiled(folder, how) for how, folder in folders.items())
    assert max(hole(["z"])["input_ids"][0]) == HOLE
    assert len(twice(["a b c d e f"], truncation=True, max_length=MOST)["input_ids"][0]) > MOST
    with pytest.raises(Exception, match="Missing"):
        unknown(["é"])


def test_a_model_without_a_row_for_one_of_its_tokenizers_tokens_is_refused(built: Built, tmp_path: Path) -> None:
    words = ("late again",)
    token_rows.check(built.tokenizer, built.model.encoder, words, "m")
    with pytest.raises(OperatorFault, match="a token of id 500, the model an embedding for 128"):
        token_rows.check(spoiled(tmp_path, "hole"), built.model.encoder, words, "m")
    extended = tiny_models.tokenizer()
    extended.add_tokens(["late" if number == 128 else f"<{number}>" for number in range(len(extended), 129)])
    assert extended.convert_tokens_to_ids("late") == 128
    token_rows.check(extended, built.model.encoder, ("so kind",), "m")
    with pytest.raises(OperatorFault, match="a token of id 128, the model an embedding for 128"):
        token_rows.check(extended, built.model.encoder, words, "m")


def test_a_tokenizer_that_raises_at_ordinary_texts_is_refused_before_it_makes_padding_of_all_records(
    built: Built, tmp_path: Path
) -> None:
    encoder = built.model.encoder
    with pytest.raises(OperatorFault, match="the tokenizer raises at ordinary texts: .*Missing"):
        token_rows.check(spoiled(tmp_path, "unknown"), encoder, ("café",), "m")

    def of_another_interface(texts: list[str], max_length: int, truncation: bool) -> dict[str, list[list[int]]]:
        del truncation
        return {"input_ids": [[1] * min(len(text), max_length) for text in texts]}

    with pytest.raises(OperatorFault, match="the tokenizer raises at ordinary texts: TypeError"):
        token_rows.check(of_another_interface, encoder, ("late again",), "m")


def test_padding_is_always_a_token_of_the_model(built: Built, tmp_path: Path) -> None:
    beyond = spoiled(tmp_path, "hole")
    beyond.pad_token = "z"
    assert beyond.pad_token_id == HOLE
    assert token_rows.padding(replace(built, tokenizer=beyond)) == 0
