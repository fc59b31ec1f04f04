"""Tokenizers for transformers: tokenizer.json with the token that ends a document, and tokenizer_config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from hybridkit.data.tokenizer import MARK, SAVED, ByteTokenizer, Tokenizer
from hybridkit.data.tokenizer_choice import load_tokenizer
from hybridkit.data.tokenizers._decoding import BYTE_OF
from hybridkit.data.tokenizers._json_file import names_of, parse_tokenizer
from hybridkit.hub.files import write_json
from hybridkit.model.model import Model
from hybridkit.system.errors import UserError

END = "<|endoftext|>"
PADDING = 1024  # rows of an embedding beyond the tokenizer's tokens that are padding; or a sixteenth, for large ones


class End(NamedTuple):
    """The token that ends a document."""

    name: str
    id: int

    def ids(self) -> dict[str, int | None]:
        """The special ids of config.json. No token is padding: `generate` would mask it wherever it stands."""
        return {"bos_token_id": None, "eos_token_id": self.id, "pad_token_id": None}


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of tokenizer.json, without templates: a text has the ids there that it has here.

    Raises UserError for a plug-in's tokenizer, which no other program has.
    """
    if tokenizer.digest != "bytes" and MARK in (made := json.loads(tokenizer.saved)):
        raise UserError(
            f"data.tokenizer {made[MARK]}: a plug-in's tokenizer has no tokenizer.json that transformers reads;"
            " use --format hybridkit"
        )
    made = byte_level() if tokenizer.digest == "bytes" else parse_tokenizer(tokenizer.saved)
    if tokenizer.end not in {token["id"] for token in made["added_tokens"]}:
        made["added_tokens"] = [*made["added_tokens"], _special(made, tokenizer.end)]
    return made


def names_by_id(tokenizer: Tokenizer) -> dict[int, str]:
    """The names of the tokens of tokenizer.json, special ones too."""
    made = json.loads(tokenizer.saved) if tokenizer.digest != "bytes" else byte_level()
    added = {token["id"]: token["content"] for token in made.get("added_tokens") or ()}
    return {token: name for name, token in names_of(made["model"])} | added


def end_of(tokenizer: Tokenizer) -> End:
    """The end of a document by the name that tokenizer.json gives it."""
    return next(End(token["content"], token["id"]) for token in tokenizer_json(tokenizer)["added_tokens"]
                if token["id"] == tokenizer.end)  # fmt: skip


def write_tokenizer(model: Model, end: End, folder: Path) -> None:
    """Both files, as `AutoTokenizer` reads them."""
    assert model.tokenizer
    text = json.dumps(tokenizer_json(model.tokenizer), ensure_ascii=False)
    (folder / SAVED).write_text(text, encoding="utf-8")
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end.name, "clean_up_tokenization_spaces": False}
    write_json(folder / "tokenizer_config.json", said)


def read_hub_tokenizer(folder: Path, rows: int) -> Tokenizer:
    """The tokenizer of a checkpoint whose embedding has so many rows. Raises UserError for another one's."""
    if not (folder / SAVED).is_file():
        raise UserError(
            f"{folder}: no {SAVED} in it; save it with transformers:"
            " AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
        )
    tokenizer = load_tokenizer(folder)
    if tokenizer.saved == json.dumps(byte_level(), ensure_ascii=False):
        return ByteTokenizer()
    if tokenizer.vocab > rows or rows - tokenizer.vocab > max(PADDING, rows // 16):
        raise UserError(
            f"{folder / SAVED}: a tokenizer of {tokenizer.vocab} tokens does not belong to {rows} rows of an embedding"
        )
    return tokenizer


def byte_level() -> dict[str, Any]:
    """The tokenizer `bytes` in the format of `tokenizers`: ids are byte values, and 256 ends a document."""
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers

    library = Library(models.BPE(dict(sorted(BYTE_OF.items(), key=lambda item: item[1])), []))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.decoder = decoders.ByteLevel()
    made: dict[str, Any] = json.loads(library.to_str())
    made["added_tokens"] = [_special(made, 256)]
    return made


def _special(made: dict[str, Any], token: int) -> dict[str, Any]:
    """An entry of `added_tokens` for the end of a document."""
    vocab = made["model"]["vocab"]
    taken = {name if isinstance(name, str) else name[0]: place for place, name in enumerate(vocab)}
    ids = vocab if isinstance(vocab, dict) else taken
    name = next((name for name, place in ids.items() if place == token), END)
    while name in ids and ids[name] != token:
        name = f"<{name}>"
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": name, **flags, "special": True}
