"""The kind "task": what `--needles` names. One file of `evaluation/tasks/`, or a plug-in, holds one class.

A task makes prompts of growing size, and says what the model should answer. Scores are RULER's (arXiv 2404.06654).
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from hybridkit.data.named import plugin_code
from hybridkit.evaluation.haystack import Essays
from hybridkit.registry.kinds import Kind
from hybridkit.registry.registry import REGISTRY

TASK = Kind("task", "hybridkit.evaluation.tasks")
ANSWER_TOKENS = 128  # room for the answer, and the tokens generated


@dataclass(frozen=True)
class Prompt:
    """What a model reads, and what it should say."""

    input: str
    answer_prefix: str
    outputs: tuple[str, ...]
    depths: tuple[float, ...]  # percent of the haystack that stands before the needle of each output

    @property
    def text(self) -> str:
        """All that the model reads."""
        return self.input + self.answer_prefix


class Task(ABC):
    """A question about a long text. A prompt is a pure function of units, generator and essays."""

    kind: ClassVar[str] = TASK.name

    @property
    def least(self) -> int:
        """The least number of units of text in a prompt."""
        return 1

    @property
    def uses_essays(self) -> bool:
        """Whether prompts depend on `--haystack`."""
        return False

    @abstractmethod
    def prompt(self, units: int, rng: random.Random, essays: Essays) -> Prompt:
        """A prompt with `units` units of text, which has more tokens the more units it has.

        Raises UserError where the essays are too short.
        """

    def code(self) -> Mapping[str, str]:
        """SHA-256 of the plug-in's files that define it, by name; none for a class of this package."""
        return plugin_code(type(self))


def choose_task(name: str) -> Task:
    """The task of a name. Raises UserError for an unknown one."""
    made: Task = REGISTRY.get(TASK, name)()
    return made


def score(prediction: str, outputs: Sequence[str]) -> float:
    """RULER's string_match_all of one sample: the share of outputs that the prediction holds, case aside."""
    return sum(found(prediction, outputs)) / len(outputs)


def found(prediction: str, outputs: Sequence[str]) -> list[bool]:
    """Whether the prediction holds each output, case aside."""
    return [output.lower() in prediction.lower() for output in outputs]


def clean(prediction: str) -> str:
    """A prediction as RULER compares it: control characters become line ends, and the ends are bare."""
    return "".join("\n" if character < " " else character for character in prediction.strip()).strip()
