"""Recall by distance, for models trained on `source: recall(...)`: how often the right value is the likeliest token.

There are two probes. `near` reads held-out sequences of the training's kind, and groups queries by their distance from
the key's last occurrence. `far` reads all pairs of a sequence, then noise of a given length (the gap), then one key.
B sequences, T tokens, P pairs, G tokens of the gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from hybridkit.data.feed import IGNORED, Batch
from hybridkit.data.recipe_data import feed_source
from hybridkit.data.sources.recall import RecallTask, UniformNumbers
from hybridkit.evaluation.cut import before_answers
from hybridkit.evaluation.scoring import ReadOptions, score_tokens
from hybridkit.model.model import Model
from hybridkit.recipe.schema import Data
from hybridkit.registry.registry import Registry
from hybridkit.system.errors import UserError


class Near(NamedTuple):
    """The queries of a bin."""

    hits: list[list[float]]  # for each sequence, 1 or 0 for each query
    distances: list[int]  # of all queries


def check_recall(gaps: Sequence[int], data: Data, registry: Registry, name: object) -> None:
    """Raise UserError for gaps that are asked of what is trained on text; messages call it `name`."""
    if gaps and not isinstance(feed_source(data, registry), RecallTask):
        raise UserError(f"--recall: {name} is trained on text, not on `source: recall(...)`")


def near(model: Model, batches: Iterable[Batch], reading: ReadOptions) -> dict[int, Near]:
    """Hits of held-out sequences by distance, rounded down to a power of two."""
    hits: dict[int, dict[int, list[float]]] = {}
    exact: dict[int, list[int]] = {}
    first = 0
    for batch in batches:
        right, asked = score_tokens(model, batch, reading).right.numpy(), (batch.targets != IGNORED).numpy()
        back = distances(batch.tokens.numpy())[asked]
        rows = first + np.nonzero(asked)[0]
        for distance, row, hit in zip(back.tolist(), rows.tolist(), right[asked].tolist(), strict=True):
            place = 1 << distance.bit_length() - 1
            hits.setdefault(place, {}).setdefault(row, []).append(float(hit))
            exact.setdefault(place, []).append(distance)
        first += len(asked)
    return {place: Near(list(found.values()), exact[place]) for place, found in sorted(hits.items())}


def far(model: Model, task: RecallTask, gap: int, samples: int, seed: int, reading: ReadOptions) -> list[float]:
    """1 or 0 for each of `samples` sequences with a gap of `gap` tokens; every model reads the same sequences."""
    tokens, values = (torch.from_numpy(part) for part in probe(task, gap, samples, seed))
    targets = torch.full_like(tokens, IGNORED)
    targets[:, -1] = values
    parts = zip(tokens.split(reading.batch), targets.split(reading.batch), strict=True)
    batches = (Batch(part, wanted, None, 0) for part, wanted in parts)
    read = (score_tokens(model, batch, reading, before_answers) for batch in batches)
    return [float(hit) for scores in read for hit in scores.right[:, -1]]


def probe(task: RecallTask, gap: int, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of pairs, noise and a key (B, 2P + G + 1), and the value that belongs to the key (B,)."""
    uniform, first = UniformNumbers("far recall", seed, gap), task.first
    keys = first.key + uniform.distinct(task.keys, task.pairs, rows)
    values = first.value + uniform.below(task.values, rows, task.pairs)
    noise = first.noise + uniform.below(task.noises, rows, gap)
    asked = uniform.below(task.pairs, rows, 1)
    shown = np.stack([keys, values], axis=2).reshape(rows, -1)
    query = np.take_along_axis(keys, asked, axis=1)
    return np.concatenate([shown, noise, query], axis=1), np.take_along_axis(values, asked, axis=1)[:, 0]


def distances(tokens: np.ndarray) -> np.ndarray:
    """For each token (B, T), how many tokens ago it last occurred in its row (B, T); 0 if never."""
    order = tokens.argsort(axis=1, kind="stable")
    ordered = np.take_along_axis(tokens, order, axis=1)
    back = np.zeros_like(order)
    back[:, 1:] = np.where(ordered[:, 1:] == ordered[:, :-1], order[:, 1:] - order[:, :-1], 0)
    found = np.empty_like(back)
    np.put_along_axis(found, order, back, axis=1)
    return found
