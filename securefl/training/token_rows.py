"""Rows of token ids that a model can take, whatever its tokenizer says: each follows from its own text alone.

A tokenizer is a file that somebody else wrote. It may give a word an id beyond the model's embedding, a row more tokens
than it was asked for, or raise at a text. Were any of these left to the model, one record would end a training, and the
message that says so would tell of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from securefl.errors import OperatorFault
from securefl.shown import plain

if TYPE_CHECKING:
    from securefl.training.built import Built
    from securefl.training.prompt import Pattern

Row = tuple[int, ...]
RUST = "pyo3_runtime"  # of a panic in the tokenizer's own language, which is no Exception


def embedded(model: nn.Module) -> float:
    """Return how many ids the model has an embedding for, the first of them 0; infinity if it does not say."""
    for module in model.modules():
        try:
            found = module.get_input_embeddings()  # type: ignore[operator]
        except (AttributeError, NotImplementedError, TypeError):
            continue
        if isinstance(found, nn.Embedding):
            return found.num_embeddings
    said = getattr(getattr(model, "config", None), "vocab_size", None)
    return said if isinstance(said, int) else math.inf


def check(tokenizer: Any, model: nn.Module, texts: Sequence[str], name: str) -> None:  # noqa: ANN401 - of transformers
    """Check that the tokenizer reads ordinary texts, and that the model has an embedding for every token it makes.

    One that raises at each text would make padding of all records (`of`), and a training of nothing. A token that was
    added for something else, such as an image's beside a text model, may be beyond: where it stands in a record it
    becomes padding.

    Args:
        texts: ordinary ones, none of which has such a token.

    Raises:
        OperatorFault: it raises, or the model has not.
    """
    try:
        _asked(tokenizer, list(texts), _cut(8))
    except BaseException as fault:  # a tokenizer raises what it likes
        if not _of_the_tokenizer(fault):
            raise
        what = f"the tokenizer raises at ordinary texts: {type(fault).__name__}: {plain(str(fault))}"
        raise OperatorFault(what, "use the model's own tokenizer", name) from fault
    rows, words = embedded(model), dict(getattr(tokenizer, "get_vocab", dict)())
    for added in getattr(tokenizer, "get_added_vocab", dict)():
        words.pop(added, None)
    made = (each for row in _rows(tokenizer, list(texts), {}) for each in row if isinstance(each, int))
    largest = max((*words.values(), *made), default=-1)
    if largest >= rows:
        what = f"the tokenizer has a token of id {largest}, the model an embedding for {rows} tokens"
        raise OperatorFault(what, "use the model's own tokenizer, or give the model the rows that it lacks", name)


def padding(built: Built) -> int:
    """Return the id behind a row's end. The mask hides it, so any token of the model would do."""
    pad, rows = built.tokenizer.pad_token_id or 0, embedded(built.model.encoder)
    return pad if 0 <= pad < rows else 0


def of(built: Built, texts: Sequence[str], most: int, pattern: Pattern | None = None) -> tuple[Row, ...]:
    """Return a row for each text: one id at least and ``most`` at most, each of which the model has an embedding for.

    An id that it has none for becomes padding, and so does a whole text at which the tokenizer raises.

    Args:
        pattern: what the texts stand in, if anything.

    Raises:
        OperatorFault: the pattern leaves no room for a text.
    """
    known, pad = embedded(built.model.encoder), padding(built)
    cut = _cut(most) if pattern is None else {"add_special_tokens": False}
    given = list(texts) if pattern is None else [pattern.blank + text for text in texts]
    found = []
    for ids in _rows(built.tokenizer, given, cut):
        row = tuple(each if isinstance(each, int) and 0 <= each < known else pad for each in ids)
        found.append((row if pattern is None else pattern.around(row, most))[:most] or (pad,))
    return tuple(found)


def _rows(tokenizer: Any, texts: list[str], cut: Mapping[str, Any]) -> Sequence[Sequence[object]]:  # noqa: ANN401
    """Return what the tokenizer makes of texts; of one at which it raises, nothing, whatever the others are."""
    if not texts:
        return []
    try:
        return _asked(tokenizer, texts, cut)
    except BaseException as fault:  # a tokenizer raises what it likes
        if not _of_the_tokenizer(fault):
            raise  # of this process, not of the text
        return [[]] if len(texts) == 1 else [row for text in texts for row in _rows(tokenizer, [text], cut)]


def _asked(tokenizer: Any, texts: list[str], cut: Mapping[str, Any]) -> Sequence[Sequence[object]]:  # noqa: ANN401
    found: Sequence[Sequence[object]] = tokenizer(texts, verbose=False, **cut)["input_ids"]
    return found


def _cut(most: int) -> Mapping[str, Any]:
    return {"truncation": True, "max_length": most}


def _of_the_tokenizer(fault: BaseException) -> bool:
    return isinstance(fault, Exception) or type(fault).__module__ == RUST
