"""The tokenizer that `data.tokenizer` names, and the one that a folder holds."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from hybridkit.data.tokenizers.base import SAVED, ByteTokenizer, Tokenizer
from hybridkit.recipe.rules import CURRENT_RULES
from hybridkit.runs.run import Run
from hybridkit.system.errors import UserError, nearest

_LEAST, _MOST = 257, 2**20  # tokens: the least is 256 byte values and the end of a document


class TokenizerChoice(NamedTuple):
    """What `data.tokenizer` names: an identity that says which ids it will give, how many, and how to make it."""

    identity: str
    vocab: int  # ids are below it
    make: Callable[[Iterable[bytes]], Tokenizer]  # from the training documents, which only `train(V)` reads


def choose_tokenizer(text: str, rules: int = CURRENT_RULES) -> TokenizerChoice:
    """The tokenizer that `bytes`, `train(V)` or the path of a tokenizer.json (or of a folder that holds one) names.

    Raises UserError where there is none such, or the file is not a tokenizer's.
    """
    if text == "bytes":
        return TokenizerChoice(text, _LEAST, lambda _: ByteTokenizer())
    from hybridkit.data.tokenizers import bpe  # not needed for bytes, and slow to import

    if found := re.fullmatch(r"train\(\s*(\d{1,9})(k?)\s*\)", text):
        vocab = int(found[1]) * (1024 if found[2] else 1)
        if not _LEAST <= vocab <= _MOST:
            raise UserError(f"data.tokenizer: {text} is out of range: V is {_LEAST} (bytes and end) to {_MOST}")
        return TokenizerChoice(
            f"train({vocab}) {bpe.VERSION}", vocab, lambda documents: bpe.train_bpe(documents, vocab, rules)
        )
    path = os.path.expanduser(text)
    path = os.path.join(path, SAVED) if os.path.isdir(path) else path
    if not os.path.isfile(path):
        hint = f"; did you mean `{name}`?" if (name := nearest(text, ["bytes", "train(4096)"])) else ""
        raise UserError(f"data.tokenizer: {text[:200]!r} is not bytes, train(V) or the path of a tokenizer.json{hint}")
    tokenizer = bpe.read_tokenizer(Path(path), rules)
    return TokenizerChoice(tokenizer.identity, tokenizer.vocab, lambda _: tokenizer)


def tokenizer_vocab(text: str, vocab: int | None = None) -> int:
    """The vocabulary of a model for the tokenizer that `text` names: its own, or a larger `vocab`, which pads.

    Reads no corpus. Raises UserError for a smaller `vocab`.
    """
    least = choose_tokenizer(text).vocab
    if vocab is not None and vocab < least:
        raise UserError(f"model.vocab: {vocab} is less than the {least} tokens of data.tokenizer {text}")
    return vocab or least


def load_tokenizer(folder: Path, rules: int = CURRENT_RULES) -> Tokenizer:
    """The tokenizer that was saved in `folder`, as `rules` have it; `bytes` if none was.

    Raises UserError for a damaged file.
    """
    if not (folder / SAVED).exists():
        return ByteTokenizer()
    from hybridkit.data.tokenizers import bpe

    return bpe.read_tokenizer(folder / SAVED, rules)


def run_tokenizer(run: Run, rules: int | None = None) -> Tokenizer:
    """A run's own copy of its tokenizer, as `rules` have it (None: the current ones).

    Raises UserError where it is damaged, or not the recorded one.
    """
    run.check_exists()
    found, manifest = load_tokenizer(run.path, rules or CURRENT_RULES), run.record()
    wanted = manifest.tokenizer if manifest else None
    if wanted not in (None, found.digest):
        now = f"has sha256 {found.digest}" if (run.path / SAVED).exists() else "is missing"
        raise UserError(
            f"{run.path / SAVED} is not the tokenizer that the run was trained with: it {now},"
            f" and the run's record says {wanted}; put it back"
        )
    return found
