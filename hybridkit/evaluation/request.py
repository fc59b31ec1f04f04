"""The request and the result of an evaluation: plain data, quick to import."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, get_args

from hybridkit.system.choices import DeviceChoice, PrecisionChoice, Scoring
from hybridkit.system.errors import UserError

EvalProgress = Callable[[str, int, int], None]  # what is done, how much of it, of how much

RULER_LENGTHS = "4k,8k,16k,32k,64k,128k"
_LEAST = {"context": 1, "lengths": 1, "windows": 1, "samples": 1, "gaps": 0, "batch": 1, "chunk": 1, "limit": 1}


def unwatched(what: str, done: int, total: int) -> None:
    """An EvalProgress that shows nothing."""


@dataclass(frozen=True)
class EvalRequest:
    """What to measure; the same for every run.

    Raises UserError for a value out of range, and for one that means nothing without another one.
    """

    perplexity: bool = True
    texts: tuple[str, ...] = ()  # read in place of a run's held-out text; named as `data.source` names text
    context: int | None = None  # tokens of the rows for the loss by position; None: many times the training length
    tasks: tuple[str, ...] = ()  # of RULER
    lengths: tuple[int, ...] = ()
    windows: tuple[int | None, ...] = (None,)  # at test time; None: each block's own
    samples: int = 500
    seed: int = 42
    scoring: Scoring = "ruler"
    haystack: Path | None = None
    gaps: tuple[int, ...] = ()  # of the recall probe, in tokens; empty: none
    batch: int = 8
    chunk: int = 2048
    device: DeviceChoice = "auto"
    precision: PrecisionChoice | None = None  # of the weights and the arithmetic; None: as the weights were saved
    average: bool = False  # the running mean of the weights (train.ema) in their place
    harness: tuple[str, ...] = ()  # tasks of lm-evaluation-harness
    include: Path | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            said = getattr(self, name)
            for value in said if isinstance(said, tuple) else (said,):
                if value is not None and (type(value) is not int or value < least):
                    raise UserError(f"evaluate: {name}: should be a whole number of at least {least}, not {value}")
        for name, allowed in (("scoring", Scoring), ("device", DeviceChoice), ("precision", PrecisionChoice)):
            value = getattr(self, name)
            if value is not None and value not in get_args(allowed):
                raise UserError(f"evaluate: {name}: should be {' or '.join(get_args(allowed))}, not {value}")
        for useless, said in self._meaningless():
            if useless:
                raise UserError(said)

    def _meaningless(self) -> Iterator[tuple[object, str]]:
        """What is asked without what it belongs to, each with the message that says so."""
        needles, tasks = "name them, as in --needles niah_single_1", "name them with --tasks"
        yield not self.windows, "--windows: should name at least one window; leave it out for each block's own"
        yield self.tasks and not self.lengths, "--lengths: should name at least one length of the needle tasks"
        other = not (self.tasks or self.harness)
        yield other and self.lengths, f"--lengths is for needle tasks: {needles}; or for harness tasks: {tasks}"
        yield not self.tasks and self.scoring != "ruler", f"--score is for needle tasks: {needles}"
        yield not self.tasks and self.haystack, f"--haystack is for needle tasks: {needles}"
        yield not self.perplexity and self.texts, "--text is for perplexity: leave --no-perplexity out"
        yield not self.perplexity and self.context, "--context is for the loss by position: leave --no-perplexity out"
        settings = self.include or self.limit
        yield settings and not self.harness, f"--include and --limit are for harness tasks: {tasks}"
        if not (self.perplexity or self.tasks or self.gaps or self.harness):
            yield True, "there is nothing to measure: leave --no-perplexity out, or add --needles, --recall or --tasks"


class CellScore(NamedTuple):
    """A score in percent with its 95 % interval; `length`: tokens of the prompt, or of the gap in recall."""

    run: str
    task: str
    length: int
    window: int | None
    samples: int
    score: float
    low: float
    high: float
    unseen: float = 0.0  # share of the answers that lie further back than any path of the stack reaches


class DepthScore(NamedTuple):
    """How many of the answers whose needle lay this deep (percent, from here on) were right."""

    run: str
    task: str
    length: int
    window: int | None
    depth: int
    asked: int
    found: int
    unseen: int = 0  # of those asked, how many lie further back than any path of the stack reaches


@dataclass
class EvalResult:
    """The results of one evaluation."""

    settings: dict[str, Any]
    trained: dict[str, str]  # the windows that each run was trained with, as a pattern says them
    origins: dict[str, dict[str, Any]] = field(default_factory=dict)  # of each run (hybridkit.evaluation.provenance)
    cells: list[CellScore] = field(default_factory=list)
    depths: list[DepthScore] = field(default_factory=list)
    perplexity: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    by_position: list[dict[str, Any]] = field(default_factory=list)
    tasks: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)  # run -> harness task -> figures
    notes: list[str] = field(default_factory=list)  # what a reader must know

    def to_json(self) -> dict[str, Any]:
        """Plain data: what --json prints."""
        return {
            "cells": [cell._asdict() for cell in self.cells],
            "perplexity": self.perplexity,
            "by_position": self.by_position,
            "depths": [depth._asdict() for depth in self.depths],
            "tasks": self.tasks,
            "settings": self.settings,
            "trained": self.trained,
            "origins": self.origins,
            "notes": self.notes,
        }
