"""Associative recall, made up on the spot: `source: recall(pairs=6, noise=.5)` trains and probes memory alone.

A sequence is cut into slots of two tokens. A slot holds noise, or one of the sequence's keys and the value that the
sequence binds it to. Only the value after a key that was seen before is a target. The distances between the
occurrences of a key are geometric, with a mean of 2 pairs / (1 - noise) tokens; `far` adds queries whose distance is
nearly the sequence. With `far_begin` and `far_end`, that share rises from 0 at the one step to `far` at the other:
a model learns near recall first. (Multi-query associative recall: Arora et al., arXiv 2312.04927.)

Every token is one printable byte where they suffice, so that text, tokenizers and generation work as for any bytes.
Letters: B sequences, T tokens, S = ceil(T / 2) slots, P pairs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from hybridkit.data.cache import digest_of
from hybridkit.data.feed import IGNORED, Batch
from hybridkit.data.source import FeedSource
from hybridkit.data.tokenizer import ByteTokenizer, Tokenizer
from hybridkit.system.errors import UserError

HELD_OUT = 2**16  # tokens of the validation, or one sequence if that has more
_TOKENS = 256  # byte values
_SPACE = 32  # the first printable byte


class RecallTask(FeedSource):
    """What a sequence is made of. `far` is the expected share of queries whose key stands at the other end."""

    pairs: int = Field(6, ge=1)
    noise: float = Field(0.5, ge=0, lt=1)
    far: float = Field(0.0, ge=0, le=1)
    keys: int = Field(32, ge=1)
    values: int = Field(32, ge=2)
    noises: int = Field(16, ge=1)
    far_begin: int = Field(0, ge=0)
    far_end: int = Field(0, ge=0)  # 0: `far` from the first step on

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.pairs > self.keys:
            raise ValueError(f"{self.pairs} pairs of distinct keys need as many keys, not {self.keys}")
        if (total := self.noises + self.keys + self.values) > _TOKENS:
            raise ValueError(f"noises, keys and values need {total} different tokens; there are {_TOKENS}, the bytes")
        if self.far_begin and self.far_begin >= self.far_end:
            raise ValueError(f"far_end should be a later step than far_begin, {self.far_begin}, not {self.far_end}")
        if self.far_end and not self.far:
            raise ValueError("far_end needs a share of far queries: give far= as well")
        return self

    def at(self, step: int) -> Self:
        """The task as it is at a step, which counts from 0, and as it then stays."""
        if not self.far_end:
            return self
        share = min(max(0.0, (step - self.far_begin) / (self.far_end - self.far_begin)), 1.0)
        return self.model_copy(update={"far": share * self.far, "far_begin": 0, "far_end": 0})

    def feed(self, sequence: int, batch: int, seed: int = 0) -> RecallFeed:
        return RecallFeed(self, sequence, batch, seed)

    @property
    def first(self) -> Vocabulary:
        """The first id of noise, keys and values, each a range without gaps."""
        noise = min(_SPACE, _TOKENS - self.noises - self.keys - self.values)
        return Vocabulary(noise, noise + self.noises, noise + self.noises + self.keys)

    def queries(self, slots: int) -> float:
        """The expected number of targets in a sequence of `slots` slots without far queries."""
        share = 1 - self.noise
        return slots * share - self.pairs * (1 - (1 - share / self.pairs) ** slots)

    def far_sequences(self, slots: int) -> float:
        """The share of sequences that get far queries, so that far queries are the share `far` of all queries."""
        near = self.far * self.queries(slots)
        return near / (near + (1 - self.far) * self.pairs) if self.far else 0.0


class Vocabulary(NamedTuple):
    """The first id of each kind of token."""

    noise: int
    key: int
    value: int


class RecallFeed:
    """The task as a feed: `batch` sequences of `sequence` tokens a step, a pure function of (task, seed, step).

    Raises UserError for a sequence that is too short to ask for anything.
    """

    def __init__(self, task: RecallTask, sequence: int, batch: int, seed: int = 0) -> None:
        least = 4 * task.pairs if task.far else 3
        if sequence < least:
            raise UserError(f"data.sequence: {task} needs sequences of at least {least} tokens, not {sequence}")
        self.task = task
        self.tokenizer: Tokenizer = ByteTokenizer()
        self.digest = digest_of([str(task), sequence, batch, seed])
        self._sequence, self._batch, self._seed = sequence, batch, seed

    def at(self, step: int) -> RecallFeed:
        """The feed with the task as it is at a step."""
        if (task := self.task.at(step)) == self.task:
            return self
        made = copy.copy(self)
        made.task = task
        return made

    def batch(self, step: int, rows: slice | np.ndarray = slice(None)) -> Batch:
        """Rows of the batch of a step, which counts from 0."""
        return _batch(
            *make_sequences(self.task.at(step), UniformNumbers(self._seed, step), self._batch, self._sequence), rows
        )

    def validation(self) -> Iterator[Batch]:
        """Sequences that no step trains on, the same for every seed."""
        rows = max(1, HELD_OUT // self._sequence)
        made = make_sequences(self.task, UniformNumbers("held out"), rows, self._sequence)
        for first in range(0, rows, self._batch):
            yield _batch(*made, slice(first, first + self._batch))


class UniformNumbers:
    """Numbers in [0, 1) from a counter-based generator: the raw bits of Philox, which no release of numpy changes."""

    def __init__(self, *key: int | str) -> None:
        self._bits = np.random.Philox(key=int(digest_of(key), 16))

    def __call__(self, *shape: int) -> np.ndarray:
        """The next numbers, of this shape, float64."""
        return (self._bits.random_raw(shape) >> np.uint64(11)) * 2.0**-53

    def below(self, limit: int, *shape: int) -> np.ndarray:
        """Whole numbers from 0 to limit - 1, int64."""
        return (self(*shape) * limit).astype(np.int64)

    def distinct(self, limit: int, count: int, rows: int) -> np.ndarray:
        """(rows, count) whole numbers from 0 to limit - 1, those of a row distinct and in random order."""
        return self(rows, limit).argsort(axis=1)[:, :count]


def make_sequences(task: RecallTask, uniform: UniformNumbers, rows: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Sequences (B, T) and the target after each of their tokens (B, T), `IGNORED` where none is asked for."""
    slots, first = -(-tokens // 2), task.first
    keys, values = uniform.distinct(task.keys, task.pairs, rows), uniform.below(task.values, rows, task.pairs)
    asked = uniform.below(task.pairs, rows, slots)  # (B, S): which of the row's keys
    empty = uniform(rows, slots) < task.noise
    _stretch(task, uniform, asked, empty)
    filler = first.noise + uniform.below(task.noises, rows, slots, 2)
    pair = np.stack([first.key + _pick(keys, asked), first.value + _pick(values, asked)], axis=2)  # (B, S, 2)
    made = np.where(empty[:, :, None], filler, pair)
    targets = np.full_like(made, IGNORED)
    known = _seen(asked, empty, task.pairs)
    targets[:, :, 0][known] = pair[:, :, 1][known]
    return made.reshape(rows, -1)[:, :tokens], targets.reshape(rows, -1)[:, :tokens]


def _stretch(task: RecallTask, uniform: UniformNumbers, asked: np.ndarray, empty: np.ndarray) -> None:
    """Turn a share of the rows into far ones: every pair, then noise, then every key again in another order."""
    rows, slots = asked.shape
    chosen = uniform(rows) < task.far_sequences(slots)
    if not task.far:
        return
    empty[chosen] = True
    for place in (slice(0, task.pairs), slice(slots - task.pairs, slots)):
        asked[chosen, place] = uniform.distinct(task.pairs, task.pairs, rows)[chosen]
        empty[chosen, place] = False


def _seen(asked: np.ndarray, empty: np.ndarray, pairs: int) -> np.ndarray:
    """(B, S): whether a slot holds a key that an earlier slot of the row holds."""
    shown = (asked[:, :, None] == np.arange(pairs)) & ~empty[:, :, None]  # (B, S, P)
    times = shown.cumsum(axis=1, dtype=np.int32)
    return ~empty & (_pick(times, asked[:, :, None])[:, :, 0] > 1)


def _pick(table: np.ndarray, places: np.ndarray) -> np.ndarray:
    return np.take_along_axis(table, places, axis=-1)


def _batch(tokens: np.ndarray, targets: np.ndarray, rows: slice | np.ndarray) -> Batch:
    """The chosen rows; every target counts as a byte, which it is."""
    asked = torch.from_numpy(np.ascontiguousarray(targets[rows]))
    return Batch(torch.from_numpy(np.ascontiguousarray(tokens[rows])), asked, None, int((asked != IGNORED).sum()))
