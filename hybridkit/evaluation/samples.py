"""The samples of a task at a context length. Each has the largest haystack that fits; nothing is truncated.

A sample depends on (task, length, seed, index, tokenizer, essays) alone, so that runs with the same tokenizer answer
the same samples. Several tokenizations are needed to find how much haystack fits; the sizes are cached beside the
corpora.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from hybridkit.data.cache import cache_root, digest_of
from hybridkit.data.tokenizer import Tokenizer
from hybridkit.evaluation.haystack import Essays
from hybridkit.evaluation.task import ANSWER_TOKENS, Prompt, Task, choose_task
from hybridkit.system.errors import UserError

_FORMAT = 1  # version of the samples; it is part of their digest


@dataclass(frozen=True)
class Sample:
    """A prompt and its index among the samples of a cell."""

    index: int
    prompt: Prompt
    tokens: int  # of the whole prompt


@dataclass(frozen=True)
class Samples:
    """The samples of `task` at `length` tokens. `tokenizer_digest` identifies the tokenizer."""

    task: str
    length: int
    seed: int
    tokenizer: Tokenizer
    tokenizer_digest: str
    essays: Essays
    _sizes: list[int] = field(default_factory=list)  # units of haystack, one a sample

    @property
    def digest(self) -> str:
        """A hash of everything that the samples depend on."""
        text = self.essays.digest if self._task.uses_essays else ""
        code = [dict(found)] if (found := self._task.code()) else []
        return digest_of([_FORMAT, self.task, self.length, self.seed, self.tokenizer_digest, text, *code])

    @cached_property
    def _task(self) -> Task:
        return choose_task(self.task)

    def prepare(self, count: int) -> Iterator[int]:
        """Find the sizes of the first `count` samples; yields how many are done.

        Raises UserError where the question does not fit the length, or the essays are too short.
        """
        file = _folder() / f"{self.digest}.json"
        self._sizes[:] = _read(file)
        for index in range(len(self._sizes), count):
            self._sizes.append(self._largest(index))
            yield index + 1
            if index + 1 == count or (index + 1) % 50 == 0:
                _write(file, self._sizes)

    def prompt(self, index: int) -> Prompt:
        """The prompt of a sample that was prepared."""
        return self._prompt(index, self._sizes[index])

    def __getitem__(self, index: int) -> Sample:
        """A sample that was prepared."""
        prompt = self.prompt(index)
        return Sample(index, prompt, self._tokens(prompt))

    def _prompt(self, index: int, units: int) -> Prompt:
        rng = random.Random(f"{self.seed}/{self.task}/{self.length}/{index}")
        return self._task.prompt(units, rng, self.essays)

    def _tokens(self, prompt: Prompt) -> int:
        return len(self.tokenizer.encode(prompt.text.encode()))

    def _largest(self, index: int) -> int:
        least = self._task.least
        room = self.length - ANSWER_TOKENS
        if (alone := self._tokens(self._prompt(index, least))) > room:
            raise UserError(
                f"{self.task} at length {self.length:,}: the question and the least haystack take {alone:,} tokens and"
                f" the answer {ANSWER_TOKENS}; --lengths should be at least {alone + ANSWER_TOKENS:,} here"
            )
        return largest(lambda units: self._tokens(self._prompt(index, units)), least, room, alone)


def largest(size: Callable[[int], int], least: int, limit: int, size_of_least: int) -> int:
    """The largest n with size(n) <= limit. `size` grows almost linearly in n, and size(least) <= limit."""
    fits, used, over, slope = least, size_of_least, None, 1.0
    while over is None or over - fits > 1:
        guess = fits + max(1, int((limit - used) / slope))
        if over is not None:
            guess = min(guess, (fits + 3 * over) // 4, over - 1)
        guess = max(guess, fits + 1)
        found = size(guess)
        slope = max((found - used) / (guess - fits), 1e-3)
        if found <= limit:
            fits, used = guess, found
        else:
            over = guess
    return fits


def _folder() -> Path:
    return cache_root().parent / "needles"


def _read(file: Path) -> list[int]:
    try:
        return [int(size) for size in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError):
        return []


def _write(file: Path, sizes: list[int]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(sizes), encoding="utf-8")
    part.replace(file)
