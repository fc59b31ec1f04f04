"""Prepares a tokenizer.json for the `tokenizers` library: checks its size, and seals its special tokens.

A sealed copy is used for encoding: in it, no text spells a special token. The library ignores special tokens when it
looks for added tokens; but a model whose own vocabulary has `</s>` still finds it in the text like any other word. So
the copy gives such entries random names that no text contains. Ids do not change. Decoding uses the file itself.
"""

from __future__ import annotations

import base64
import copy
import json
import math
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hybridkit.system.errors import UserError
from hybridkit.system.strict_json import unique

MAX_FILE = 1 << 27  # bytes of a tokenizer.json; the largest published ones have 35 MB
MAX_ID = 1 << 24  # as model.vocab
MAX_HOLES = 4096  # ids without a token, beside as many as there are tokens
MAX_GROWTH = 1024  # characters in place of one; the longest of Unicode's own (NFKC) has 18
BYTE_NAME = re.compile(r"<0x([0-9A-F]{2})>")  # SentencePiece's name of a single byte
ENDS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<|eos|>", "<eos>", "<|im_end|>", "[EOS]", "<EOS>")
_SPELLED_BYTE = {"type": "Split", "pattern": {"Regex": "<(?=0x[0-9A-F]{2}>)"}, "behavior": "Isolated", "invert": False}


@contextmanager
def library_errors(where: str) -> Iterator[None]:
    """UserError in place of what the library raises: Exceptions, and panics of its Rust code (BaseExceptions)."""
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise UserError(f"{where}: {str(error)[:200]}") from error


def read_tokenizer_text(path: Path) -> str:
    """The text of the file. Raises UserError where it is larger than `MAX_FILE`, or no file."""
    if not path.is_file():  # a pipe would block
        raise UserError(f"{path}: not a tokenizer.json: not a regular file")
    with path.open("rb") as file:
        raw = file.read(MAX_FILE + 1)
    if len(raw) > MAX_FILE:
        raise UserError(f"{path}: not a tokenizer.json: it has more than {MAX_FILE >> 20} MiB")
    return raw.decode()


def parse_tokenizer(text: str) -> dict[str, Any]:
    """The content of a tokenizer.json, without truncation, padding, templates and dropout.

    Raises ValueError for damaged content, and for ids that would need far more memory than the file.
    """
    try:
        made = json.loads(text, object_pairs_hook=unique)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if not isinstance(made, dict) or not isinstance(made.get("model"), dict):
        raise ValueError("it has no model")
    made.update(truncation=None, padding=None, post_processor=None)
    made["added_tokens"] = made.get("added_tokens") or []
    if "dropout" in made["model"]:
        made["model"]["dropout"] = None
    _check_ids(made)
    _check_growth(made)
    return made


def _check_ids(made: dict[str, Any]) -> None:
    vocab, added = made["model"].get("vocab"), made["added_tokens"]
    ids = list(vocab.values()) if isinstance(vocab, dict) else list(range(len(vocab or ())))
    ids += [token["id"] for token in added if "id" in token]
    if not all(type(one) is int for one in ids):
        raise ValueError("an id is not a whole number")
    largest, most = max(ids, default=0), min(MAX_ID, 2 * len(ids) + MAX_HOLES)
    if largest >= most:
        raise ValueError(f"the largest id is {largest}, which is too large for {len(ids)} tokens (below {most} here)")


def _check_growth(made: dict[str, Any]) -> None:
    """Bounds how much longer a text becomes by replacements before it is encoded, and a token after it is decoded."""
    for step in ("normalizer", "decoder"):
        if (longer := _growth(made.get(step))) > MAX_GROWTH:
            raise ValueError(f"its {step} makes text {longer} times as long (at most {MAX_GROWTH} times here)")


def _growth(step: Any) -> int:
    """How many characters a step puts in place of one, at most; of a sequence, the product."""
    if not isinstance(step, dict):
        return 1
    if step.get("type") == "Precompiled":  # a table of base64: the size of an index, the index, texts that end with 0
        table = base64.b64decode(step.get("precompiled_charsmap") or "")
        index = int.from_bytes(table[:4], "little")
        return max(map(len, table[4 + index :].split(b"\0")), default=1)
    own = max([1, *(len(step[key]) for key in ("content", "prepend") if isinstance(step.get(key), str))])
    return math.prod(map(_growth, step.get("normalizers") or step.get("decoders") or ()), start=own)


def names_of(model: dict[str, Any]) -> list[tuple[str, int]]:
    """Name and id of every entry of the model's own vocabulary: a dict, or for Unigram a list of (name, score)."""
    vocab = model["vocab"]
    return list(vocab.items()) if isinstance(vocab, dict) else [(entry[0], i) for i, entry in enumerate(vocab)]


def unknown_name(model: dict[str, Any]) -> str | None:
    """The entry that stands for unknown text, if any."""
    place = model.get("unk_id")
    return model.get("unk_token") if place is None else names_of(model)[place][0]


def seal_special_tokens(made: dict[str, Any], end: int) -> dict[str, Any] | None:
    """A copy in which no text spells a special token of two or more characters, the token `end`, or a byte's name.

    None if no text can in the original. Every token keeps its id.
    """
    model, falls_back = made["model"], made["model"].get("byte_fallback")
    special = {token["content"] for token in made["added_tokens"] if token.get("special")}
    special = {name for name in special if len(name) > 1 and not (falls_back and BYTE_NAME.fullmatch(name))}
    hidden = {name for name, token in names_of(model) if name in special or token == end}
    if not hidden and not falls_back:
        return None
    other = copy.deepcopy(made)
    _rename(other, {name: f"\ufdd0{secrets.token_hex(32)}" for name in hidden})
    if falls_back:
        for token in other["added_tokens"]:
            token["special"] = token.get("special") or bool(BYTE_NAME.fullmatch(token["content"]))
        first = other.get("pre_tokenizer")
        other["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*([first] if first else []), _SPELLED_BYTE]}
    return other


def _rename(made: dict[str, Any], new: dict[str, str]) -> None:
    """Rename entries wherever the file names them, and remove merges that have or give one of them."""
    model = made["model"]
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {new.get(name, name): token for name, token in vocab.items()}
    else:
        model["vocab"] = [[new.get(name, name), score] for name, score in vocab]
    if model.get("unk_token") in new:
        model["unk_token"] = new[model["unk_token"]]
    if merges := model.get("merges"):
        prefix = model.get("continuing_subword_prefix") or ""
        pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]
        model["merges"] = [list(pair) for pair in pairs if not new.keys() & {*pair, _merged(pair, prefix)}]
    for token in made["added_tokens"]:
        token["content"] = new.get(token["content"], token["content"])


def _merged(pair: tuple[str, ...], prefix: str) -> str:
    left, right = pair
    return left + right.removeprefix(prefix)
