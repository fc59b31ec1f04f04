"""The tokens that begin and end a text by a checkpoint's files, where a run has none or another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers

from hybridkit.data.tokenizer import SAVED, Tokenizer
from hybridkit.data.tokenizers._json_file import library_errors
from hybridkit.hub.files import read_foreign_json
from hybridkit.hub.tokenizer import names_by_id
from hybridkit.system.errors import UserError
from hybridkit.system.terminal import printable

GENERATION = "generation_config.json"
FIELD = "eos_token_id"
MOST_ENDS = 64


def read_ends(folder: Path, config: dict[str, Any], rows: int) -> list[int]:
    """The ids that transformers' generation stops at: those of generation_config.json, or where it says none, config's.

    Raises UserError for what is no token of an embedding with so many rows.
    """
    ends = _ids(folder / "config.json", config.get(FIELD), rows)
    if not (folder / GENERATION).exists():
        return ends
    generation = read_foreign_json(folder / GENERATION)
    if not isinstance(generation, dict):
        raise UserError(f"{folder / GENERATION}: should be an object")
    return _ids(folder / GENERATION, generation.get(FIELD), rows) or ends


def _ids(path: Path, said: Any, rows: int) -> list[int]:
    if said is None:
        return []
    ids = said if isinstance(said, list) else [said]
    if len(ids) > MOST_ENDS or not all(type(one) is int and 0 <= one < rows for one in ids):
        raise UserError(
            f"{path}: {FIELD}: {printable(repr(said))[:60]}: should be a token, or a list of some, from 0 to {rows - 1}"
        )
    return ids


def note_on_ends(ends: list[int], tokenizer: Tokenizer) -> str | None:
    """What to know where the checkpoint names other ends of a text than the token that ends a document in the run.

    Checkpoints for chat name the token that ends a turn, and were trained on documents that end with another.
    """
    if set(ends) <= {tokenizer.end}:
        return None
    names = names_by_id(tokenizer)
    theirs, own = (", ".join(_named(one, names) for one in some) for some in (ends[:4], [tokenizer.end]))
    return (
        f"the checkpoint ends a text with {theirs}; in the run {own} ends a document, and generation stops there alone"
        + ("" if tokenizer.end in names else " (a new token: no special one has a name that is known here)")
    )


def note_on_begins(folder: Path, tokenizer: Tokenizer) -> str | None:
    """What to know where transformers puts tokens before every text, which a run does not. Raises UserError."""
    if not (first := _first_tokens(folder, tokenizer)):
        return None
    names = names_by_id(tokenizer)
    ids = ", ".join(map(str, first))
    return (
        f"transformers puts {', '.join(_named(one, names) for one in first)} before every text of this checkpoint; here"
        " texts are read without it, by generate, eval and train, and an export is written without it: from Python,"
        f" model.prefill([{ids}, *model.tokenizer.encode(TEXT.encode())]) gives it"
    )


def _first_tokens(folder: Path, tokenizer: Tokenizer) -> list[int]:
    """The ids that the template of tokenizer.json puts before those of any text.

    transformers 5 follows it alone, and not `add_bos_token` of tokenizer_config.json.
    """
    if tokenizer.digest == "bytes":
        return []
    with library_errors(str(folder / SAVED)):
        library = tokenizers.Tokenizer.from_str(tokenizer.saved)
        library.no_truncation()
        library.no_padding()
        full, plain = (library.encode("a", add_special_tokens=special).ids for special in (True, False))
    fits = (n for n in range(len(full)) if full[n : n + len(plain)] == plain)
    return full[: next(fits, 0)]


def _named(token: int, names: dict[int, str]) -> str:
    return f"token {token}" + (f" ({printable(names[token])[:40]})" if token in names else "")
