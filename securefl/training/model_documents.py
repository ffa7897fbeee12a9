"""What a model's documents may say: no value leads a loader to a file that no digest covers.

Texts are let in by name and form, not kept out: a text of a tokenizer's document stands under a field that is known to
open nothing, and one of a configuration is a word. Any other is refused, whatever it is.

Every value of `tokenizer_config.json` and of `special_tokens_map.json` becomes an argument of the tokenizer. A text
among them may be opened as a file, in the folder the process runs in or anywhere. So a value is judged by its name and
form, at any depth, and not by what is on this machine today: the digest is pinned now, and the file may come later.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

from securefl.errors import OperatorFault
from securefl.training import tokenizer_parts

Keys = tuple[str, ...]  # the fields on the way to a value, from outside

# what transformers never reads: documents of trainers and of sentence-transformers
UNREAD: Final = re.compile(
    r"(.*/)?(modules|data_config|sentence_bert_config|config_sentence_transformers|trainer_state|training_args|"
    r"(all|train|eval|test)_results|dataset_infos?)\.json"
)
# what holds tokens, which may look like anything; of these only the fields themselves are judged
TABLES: Final = re.compile(r"(.*/)?(tokenizer(\..*)?|vocab|added_tokens|tekken)\.json")
PARTS: Final = re.compile(r"(.*/)?tokenizer(\.[\d.]+)?\.json")  # what a fast tokenizer is made from
# fields that no loader opens, with all that is in them: where a model came from, a template's text, and tokens
UNOPENED: Final = re.compile(
    r"_?name_or_path|special_tokens_map_file|chat_template|id2label|content|.*_tokens?(_decoder)?"
)
# fields that are opened as a file if they are a text
OPENED: Final = re.compile(
    r"(.*_)?(vocab|merges|files?|paths?|dir|directory|folder|spm|(decompose|merge)_map|mecab_option)"
)
ARGUMENTS: Final = frozenset({"tokenizer_config.json", "special_tokens_map.json"})  # whose values a tokenizer is given
# fields of these documents that may hold a text, because no tokenizer opens them
NAMED: Final = re.compile(
    r"((tokenizer|processor|slow_tokenizer|fast_tokenizer)_class|backend|(padding|truncation)_side|truncation_strategy|"
    r"((src|tgt|source|target)_)?lang(uage)?|lang_codes|langs|language_codes|task|errors|encoding|tokenizer_type|"
    r"((sub)?word|char)_tokenizer_type|phonemizer_(backend|lang)|wordpieces_prefix|never_split|model_input_names|"
    r"model_type|transformers_version|padding|truncation|tensor_type|return_tensors|pad_token_label|__type)"
)
CONFIGURATIONS: Final = frozenset({"config.json", "generation_config.json"})
WORD: Final = re.compile(
    r"[\w(][\w .,:;()+=-]{0,119}|"
)  # what a configuration may say: no path has such a form, but a name
PROSE: Final = re.compile(
    r"prefix|task_specific_params|license|suffix|prompts?"
)  # fields of a configuration that are text
TOKENS: Final = frozenset({"vocab", "merges"})  # of these a list holds tokens
# a path to somewhere else: from the root, a home or a drive, by a scheme, or upwards
ELSEWHERE: Final = re.compile(
    r"[/\\~].*|[A-Za-z]:[/\\].*|(?!https?:)[A-Za-z][\w+.-]*:/.*|(.*[/\\])?\.\.([/\\].*)?", re.DOTALL
)
FILE: Final = re.compile(  # by its ending, the name of a file that some loader reads
    r"[^\t\r\n<>{}|]+\.(txt|jsonl?|ya?ml|csv|tsv|dat|dic|rc|cfg|ini|model|vocab|bpe|merges|spm|tiktoken|jinja|py|bin|pth?|"
    r"safetensors|gguf|onnx|h5|msgpack|ckpt)",
    re.IGNORECASE,
)
SHOWN: Final = 80  # characters of a value that a message repeats


def check(folder: Path, files: Collection[str], name: str, data: bytes) -> None:
    """Check that one document, of a model with these covered ``files``, leads to no file but those, and to no code.

    Raises:
        OperatorFault: naming document, field, value and remedy.
    """
    if UNREAD.fullmatch(name):
        return
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        what = f"`{name}` is no JSON, or too deep: what a loader makes of it is not known"
        raise OperatorFault(what, "mend the file, or remove it", str(folder)) from None
    for keys, value, listed in _values(document, into_lists=not TABLES.fullmatch(name)):
        told = (
            _code(keys, value)
            or _led_away(files, name, keys, value, listed=listed)
            or _unknown(name, keys, value, listed=listed)
        )
        if told:
            raise OperatorFault(f"`{name}` {told[0]}", told[1], str(folder))
    quantized = document.get("quantization_config") if name == "config.json" and isinstance(document, dict) else None
    if isinstance(quantized, dict) and quantized.get("quant_method"):
        what = f"`{name}` has `quantization_config` {str(quantized['quant_method'])[:SHOWN]}"
        remedy = "use the model's own weights, as they were before"
        raise OperatorFault(f"{what}: a quantized base is not supported", remedy, str(folder))
    if PARTS.fullmatch(name) and (made := tokenizer_parts.wrong(document if isinstance(document, dict) else {})):
        raise OperatorFault(f"`{name}` {made[0]}", made[1], str(folder))


def _values(document: Any, *, into_lists: bool) -> Iterator[tuple[Keys, Any, bool]]:  # noqa: ANN401 - parsed JSON
    """Every value that has a name, and the texts of every list; whether a list is between the name and the value."""
    waiting: list[tuple[Keys, Any, bool]] = [((), document, False)]
    while waiting:
        keys, value, listed = waiting.pop()
        if keys:
            yield keys, value, listed
        if isinstance(value, dict):
            waiting += [((*keys, key), each, False) for key, each in value.items() if not isinstance(each, int | float)]
        elif isinstance(value, list) and into_lists:
            waiting += [(keys, each, True) for each in value if not isinstance(each, int | float)]


def _code(keys: Keys, value: Any) -> tuple[str, str] | None:  # noqa: ANN401 - parsed JSON
    """Return what is wrong, and the remedy, where a value needs code that is not the library's own."""
    if keys[-1] == "auto_map" and value:
        what = "has `auto_map`: this model needs its own code, which is not run"
        return what, "use a model whose architecture transformers has itself"
    if isinstance(value, str) and "/" in value and any("implementation" in key for key in keys):
        what = f"names the code {value[:SHOWN]!r} as `{keys[-1]}`, which is not run"
        return what, f"remove `{keys[-1]}`"
    return None


def _led_away(
    files: Collection[str], name: str, keys: Keys, value: Any, *, listed: bool  # noqa: ANN401 - parsed JSON
) -> tuple[str, str] | None:  # fmt: skip
    """Return what is wrong, and the remedy, where a value may be opened as a file that the digest does not cover."""
    key = keys[-1]
    if key == "init_inputs" and value:
        what = "has `init_inputs`: a tokenizer may open any of them as a file"
        return what, "remove it, and save the tokenizer again with save_pretrained"
    if not isinstance(value, str):
        return None
    says = f"names {value[:SHOWN]!r} as `{key}`"
    if "weight_map" in keys and name.endswith(".index.json"):
        inside = str(PurePosixPath(name).parent / value)
        what = f"names the weights `{value[:SHOWN]}`, which are no file of this model"
        return None if inside in files else (what, "copy every shard into the folder, under the name it has there")
    if key == "transformers_weights":
        what = f"names the weights {value[:SHOWN]!r}, which are no safetensors file of this model"
        remedy = "remove `transformers_weights`, or name a file of the folder"
        return None if value in files and value.endswith(".safetensors") else (what, remedy)
    if key == "fast_tokenizer_files":
        what = f"{says}, which is no file of this model"
        return None if value in files else (what, "copy the file into the folder, and name it there")
    if any(UNOPENED.fullmatch(each) for each in keys) or (listed and key in TOKENS):
        return None
    opening = [each for each in keys if OPENED.fullmatch(each) and (each not in TOKENS or each == key)]
    elsewhere = not TABLES.fullmatch(name) and (ELSEWHERE.fullmatch(value) or FILE.fullmatch(value))
    if opening or elsewhere:
        field = (*opening, key)[0]
        why = ": it may be opened where a process runs" if value in files else ", which is no file of this model"
        remedy = f"remove `{field}`: a loader finds the files of the folder by their own names"
        return f"names {value[:SHOWN]!r} as `{field}`{why}", remedy
    return None


def _unknown(name: str, keys: Keys, value: Any, *, listed: bool) -> tuple[str, str] | None:  # noqa: ANN401 - parsed JSON
    """Return what is wrong, and the remedy, where nothing says what a loader does with this text."""
    key = keys[-1]
    if not isinstance(value, str) or any(UNOPENED.fullmatch(each) for each in keys) or (listed and key in TOKENS):
        return None
    if name in ARGUMENTS and key != "fast_tokenizer_files" and not NAMED.fullmatch(key):
        what = f"has the text {value[:SHOWN]!r} as `{key}`, and nothing says that no tokenizer opens it"
        return what, f"remove `{key}`, or save the tokenizer again with save_pretrained"
    passes = key == "transformers_weights" or any(PROSE.fullmatch(each) for each in keys)
    if name in CONFIGURATIONS and not passes and not WORD.fullmatch(value):
        what = f"has {value[:SHOWN]!r} as `{key}`, which is no word: a loader may open it"
        return what, f"remove `{key}`, or write it as a word"
    return None
