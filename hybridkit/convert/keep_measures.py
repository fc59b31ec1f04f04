"""What `keep: auto` measures of a model: its recall, and its loss on held-out text.

A model that was trained on `recall(...)` is asked for values far behind their keys (evaluation/recall.py). Of any
other, recall is the share of tokens that it predicts in the second copy of a list of distinct tokens in random order,
where nothing but the first copy tells what comes next. B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hybridkit.convert.keep import RecallAndLoss, RecallMeasure
from hybridkit.data.feed import IGNORED, Batch
from hybridkit.data.sources.recall import RecallTask
from hybridkit.evaluation.perplexity import perplexity
from hybridkit.evaluation.recall import far
from hybridkit.evaluation.scoring import ReadOptions, score_tokens
from hybridkit.model.model import Model


def text_measure(batches: Sequence[Batch], reading: ReadOptions) -> RecallMeasure:
    """Loss on the batches, and recall of a list of the tokens of each of their rows."""
    repeats = [repeated(batch.tokens) for batch in batches]
    asked = sum(int((batch.targets != IGNORED).sum()) for batch in repeats)

    def measure(model: Model) -> RecallAndLoss:
        hits = sum(int(score_tokens(model, batch, reading).right.sum()) for batch in repeats)
        return RecallAndLoss(hits / max(1, asked), _loss(model, batches, reading))

    return measure


def task_measure(
    task: RecallTask, gap: int, samples: int, batches: Sequence[Batch], reading: ReadOptions
) -> RecallMeasure:
    """Loss on the batches, and recall over a gap of so many tokens, in `samples` sequences that are always the same."""

    def measure(model: Model) -> RecallAndLoss:
        hits = far(model, task, gap, samples, 0, reading)
        return RecallAndLoss(sum(hits) / len(hits), _loss(model, batches, reading))

    return measure


def repeated(tokens: Tensor) -> Batch:
    """Rows (B, T) to rows of their distinct tokens in random order, twice, as many as every row has, at most T / 2.

    The second copy's tokens count, but for the first.
    """
    distinct = [row.unique() for row in tokens.cpu()]
    half = min(tokens.shape[1] // 2, *map(len, distinct))
    shuffle = torch.Generator().manual_seed(0)
    copy = torch.stack([row[torch.randperm(len(row), generator=shuffle)[:half]] for row in distinct])
    both = torch.cat([copy, copy], 1)
    targets = torch.full_like(both, IGNORED)
    targets[:, half:-1] = both[:, half + 1 :]
    return Batch(both, targets, None, 0)


def _loss(model: Model, batches: Sequence[Batch], reading: ReadOptions) -> float:
    text = perplexity(model, batches, reading)
    return text.nats / max(1, text.tokens)
