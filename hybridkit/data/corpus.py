"""A corpus as a model sees it: token ids of the training and of the held-out documents, mapped from the cache.

Letters: N tokens of a side, D its documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hybridkit.data import cache as store
from hybridkit.data.prepare import BuildProgress, CorpusSpec, build_corpus
from hybridkit.data.source import open_text
from hybridkit.data.tokenizer import Tokenizer
from hybridkit.data.tokenizer_choice import choose_tokenizer, load_tokenizer
from hybridkit.recipe.rules_version import CURRENT_RULES
from hybridkit.registry.registry import REGISTRY, Registry
from hybridkit.system.errors import UserError

_DROPPED = "of which the tokenizer keeps nothing"


@dataclass(frozen=True)
class Tokens:
    """The documents of one side one after the other, `end` after each."""

    ids: np.ndarray  # (N,) uint16 or uint32
    documents: np.ndarray  # (D + 1,) int64: where each document begins; N last
    raw: int  # bytes of text
    tokenizer: Tokenizer
    lengths: np.ndarray | None = None  # (N,) raw bytes of each token, where the tokenizer has no table of them

    def __len__(self) -> int:
        return len(self.ids)

    def document(self, index: int) -> np.ndarray:
        """The ids of one document, its `end` included."""
        return self.ids[self.documents[index] : self.documents[index + 1]]

    def bytes_at(self, places: np.ndarray) -> np.ndarray:
        """The raw bytes of the tokens at `places`, of any shape, counted round the end; 0 for `end`."""
        if self.tokenizer.lengths is not None:
            return self.tokenizer.lengths[self.ids.take(places, mode="wrap")]
        assert self.lengths is not None
        return self.lengths.take(places, mode="wrap")


@dataclass(frozen=True)
class Corpus:
    """Text that is ready to train on. Two corpora with the same `digest` have the same tokens and tokenizer."""

    tokenizer: Tokenizer
    train: Tokens
    validation: Tokens
    digest: str
    documents: int  # that the source has; each side has those that fall to it, and stretches of those that were cut
    folder: Path  # of the cache
    skipped: Mapping[str, int]  # how many files, rows or documents were left out, by the reason

    @property
    def one(self) -> bool:
        """There is a single document, cut in two."""
        return self.documents == 1

    def __str__(self) -> str:
        train, held = self.train, self.validation
        if not (len(train) and len(held)):
            whole, use = (train, "training on") if len(train) else (held, "held out")
            amount = f"{whole.raw:,} bytes, {len(whole):,} tokens"
            return f"{_counted(self.documents, 'document')}: {use} all, {amount}"
        here, there = len(train.documents) - 1, len(held.documents) - 1
        cut = here + there + self.skipped.get(_DROPPED, 0) > self.documents
        begin, end = (_counted(n, "part") + " of documents" if cut else _counted(n, "document") for n in (here, there))
        begin, end = ("its beginning", "its end") if self.one else (begin, end)
        return (
            f"{_counted(self.documents, 'document')}:"
            f" training on {begin}, {train.raw:,} bytes, {len(train):,} tokens;"
            f" held out {end}, {held.raw:,} bytes ({held.raw / (train.raw + held.raw):.2%}), {len(held):,} tokens"
        )


def prepare_corpus(
    source: str,
    tokenizer: str = "bytes",
    *,
    field: str = "text",
    validation: float = 0.02,
    cache: Path | None = None,
    progress: BuildProgress | None = None,
    rules: int | None = None,
    registry: Registry = REGISTRY,
) -> Corpus:
    """The tokens of `data.source`, from the cache or built now; safe to call in several processes at once.

    `validation` is the share of the text that is held out; `rules` are those of a run, by default the current ones;
    `registry` knows the names that source and tokenizer may have.
    Raises UserError for anything wrong with the source, the tokenizer or the cache's folder.
    """
    if not 0 <= validation <= 1:
        raise UserError(f"data.validation: {validation} is not a fraction between 0 and 1")
    rules = rules or CURRENT_RULES
    text, root = open_text(source, registry), store.cache_root(cache)
    chosen = choose_tokenizer(tokenizer, registry)
    wanted = CorpusSpec(text, field, chosen, validation, text.fingerprint(field), rules)
    seen = store.find_entry(root, wanted.stamp)
    if seen is None:
        with store.building_entry(root, wanted.stamp) as part:
            seen = store.find_entry(root, wanted.stamp)  # another process may have built it while this one waited
            if seen is None:
                seen = build_corpus(wanted, part, progress or _silent)
                store.remember_entry(root, wanted.stamp, seen)
    return _load(seen, rules, registry)


def _load(seen: store.CacheEntry, rules: int, registry: Registry) -> Corpus:
    folder, about = seen.folder, store.valid_manifest(seen.folder)
    assert about is not None
    tokenizer = load_tokenizer(folder, rules, registry)

    def side(name: str) -> Tokens:
        lengths = None if tokenizer.lengths is not None else _mapped(folder / f"{name}.lengths", np.uint32)
        ids = _mapped(folder / f"{name}.ids", tokenizer.dtype)
        return Tokens(ids, _mapped(folder / f"{name}.documents", np.int64), about["raw"][name], tokenizer, lengths)

    sides = side("train"), side("validation")
    skipped = seen.skipped | ({_DROPPED: about["dropped"]} if about["dropped"] else {})
    return Corpus(tokenizer, *sides, about["digest"], about["documents"], folder, skipped)


def _mapped(path: Path, dtype: type[np.generic]) -> np.ndarray:
    return np.memmap(path, dtype, mode="r").view(np.ndarray) if path.stat().st_size else np.empty(0, dtype)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _silent(what: str, done: int, total: int | None) -> None:
    """Shows no progress."""
