"""The kind "logger": what `train.log` names. A file in training/loggers/, or a plug-in, holds one class.

A logger writes what metrics.jsonl gets for another program to draw. Nothing here imports torch or such a program.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from hybridkit.recipe.choices import LOGGER, chosen
from hybridkit.recipe.schema import Recipe, Section, Train
from hybridkit.registry.registry import REGISTRY, Registry
from hybridkit.training.callback import Callback, Line

SPEED = ("seconds", "tokens_per_second", "mfu", "peak_memory")  # of a step's line


class Logger(Section, ABC):
    """Another program that keeps the figures of runs, and its own fields: `train.log: [{name: ..., field: ...}]`."""

    kind: ClassVar[str] = LOGGER.name

    @abstractmethod
    def open(self, recipe: Recipe) -> Callback:
        """The callback that gets the metrics. Raises UserError where the program is not installed."""


def loggers_of(train: Train, registry: Registry = REGISTRY) -> list[Logger]:
    """The loggers that a recipe names. Raises UserError where the file of one fails."""
    named = [chosen(said) for said in train.log]
    return [registry.get(LOGGER, name)(**fields) for name, fields in named]


def tagged(line: Line) -> Iterator[tuple[str, float]]:
    """The numbers of a metrics line in groups, as loggers show them: `train/loss`, `speed/mfu`, `probe/recall_near`."""
    group = "train" if "loss" in line else "validation" if "val_loss" in line else "probe"
    for key, value in line.items():
        if key != "step" and isinstance(value, int | float):
            yield f"{'speed' if key in SPEED else group}/{key.removeprefix('probe.')}", value


def written_texts(line: Line) -> list[Mapping[str, Any]]:
    """What probes wrote, each with its `prompt` and `text`; a line of an older run holds one alone."""
    written = line.get("written", ())
    return [written] if isinstance(written, dict) else list(written)
