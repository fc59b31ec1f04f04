"""One of `train.probes`: a small evaluation that is repeated during training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from hybridkit.recipe.section import MOST, Section, Size

LONGEST = 1 << 22  # tokens of a gap or a prompt
NEAR = "recall_near"  # queries of held-out sequences, at the first window of the first probe of recall


def _listed(said: Any) -> Any:
    return said if isinstance(said, list) else [said]


Sizes = Annotated[list[Annotated[Size, Field(ge=1, le=LONGEST)]], BeforeValidator(_listed), Field(min_length=1)]
Names = Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(_listed), Field(min_length=1)]


class Probe(Section):
    """Every so many steps one of: recall over gaps, needles at lengths, or a text that is written."""

    every: int = Field(ge=1, le=MOST)
    recall: Sizes | None = None  # gaps in tokens
    needles: Names | None = None  # tasks
    lengths: Sizes | None = None  # of the needles' prompts
    write: str | None = Field(default=None, min_length=1)  # a prompt
    windows: Sizes | None = None
    samples: int = Field(default=100, ge=1, le=1 << 16)
    tokens: int = Field(default=64, ge=1, le=1 << 16)  # that are written

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(kind is not None for kind in (self.recall, self.needles, self.write)) != 1:
            raise ValueError("should have one of recall, needles and write: {every: 500, recall: [8, 64]}")
        if (self.needles is None) != (self.lengths is None):
            raise ValueError("needles and lengths belong together: {every: 500, needles: niah_single_1, lengths: 1k}")
        unused, owner = ("tokens", "write") if self.write is None else ("samples", "recall and needles")
        if getattr(self, unused) != type(self).model_fields[unused].default:
            raise ValueError(f"{unused} belongs to {owner}")
        return self

    @property
    def test_windows(self) -> Sequence[int | None]:
        """Those at test time, one after another; None: each block's largest."""
        return self.windows or [None]

    def metrics(self) -> Iterator[str]:
        """The names of its figures."""
        for window in self.test_windows:
            if self.recall:
                yield recall_metric("near", window)
            for gap in self.recall or ():
                yield recall_metric(gap, window)
            for task in self.needles or ():
                yield from (needle_metric(task, length, window) for length in self.lengths or ())
        if self.recall:
            yield NEAR


def recall_metric(gap: int | Literal["near"], window: int | None) -> str:
    """`probe.recall.GAP.WINDOW`: the share of values that are recalled; `own` is each block's largest window.

    The gap `near` stands for the queries of held-out sequences.
    """
    return f"probe.recall.{gap}.{window or 'own'}"


def needle_metric(task: str, length: int, window: int | None) -> str:
    """`probe.needles.TASK.LENGTH.WINDOW`: the mean score, from 0 to 1."""
    return f"probe.needles.{task}.{length}.{window or 'own'}"
