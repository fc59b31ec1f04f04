"""The recall probes: what they ask, and that one who remembers everything is always right."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from hybridkit.data.sources.recall import RecallFeed, RecallTask
from hybridkit.evaluation.recall import distances, far, near, probe
from hybridkit.evaluation.scoring import ReadOptions

TASK = RecallTask(pairs=3, keys=8, values=8, noises=4)


class Memory:
    """Predicts what followed the last occurrence of the token among the last `reach` tokens."""

    def __init__(self, reach: int) -> None:
        self.reach = reach
        self.plan = SimpleNamespace(dims=SimpleNamespace(vocab=257))
        self.head = lambda x: x
        self.head.weight = torch.zeros(1)  # type: ignore[attr-defined]

    def fixed_windows(self, window: int | None) -> list[None]:
        return []

    def hidden(self, tokens: Tensor, states: list[Tensor] | None, **_: object) -> tuple[Tensor, list[Tensor]]:
        seen = torch.cat([states[0], tokens], dim=1) if states else tokens
        logits = torch.zeros(*tokens.shape, 257)
        for row, ids in enumerate(seen.tolist()):
            for place in range(tokens.shape[1]):
                now = seen.shape[1] - tokens.shape[1] + place
                back = next((d for d in range(1, min(now, self.reach) + 1) if ids[now - d] == ids[now]), None)
                logits[row, place, ids[now - back + 1] if back else 256] = 1
        return logits, [seen]


def test_the_far_probe_is_pairs_then_noise_then_a_key() -> None:
    tokens, values = probe(TASK, 20, 50, seed=1)
    first = TASK.first
    assert tokens.shape == (50, 27)
    keys, bound, noise = tokens[:, :6:2], tokens[:, 1:6:2], tokens[:, 6:-1]
    assert all(len(set(row)) == 3 for row in keys.tolist())
    assert ((first.noise <= noise) & (noise < first.key)).all() and (bound >= first.value).all()
    asked = keys == tokens[:, -1:]
    assert (asked.sum(axis=1) == 1).all() and (bound[asked] == values).all()
    assert (probe(TASK, 20, 50, seed=1)[0] == tokens).all() and (probe(TASK, 20, 50, seed=2)[0] != tokens).any()


@pytest.mark.parametrize(("reach", "gap", "least", "most"), [(100, 16, 1, 1), (16, 16, 0, 0.0), (19, 16, 0.1, 0.6)])
def test_accuracy_is_that_of_what_is_remembered(reach: int, gap: int, least: float, most: float) -> None:
    """Memories of 19 tokens reach the last pair's key behind a gap of 16, and the one before: 2 of 3 keys at most."""
    hits = far(Memory(reach), TASK, gap, 60, 0, ReadOptions(batch=9, chunk=5))
    assert len(hits) == 60 and least <= np.mean(hits) <= most


def test_near_queries_are_binned_by_their_distance() -> None:
    feed = RecallFeed(TASK, 40, 8)
    batches = list(feed.validation())[:3]
    hits = near(Memory(7), batches, ReadOptions(chunk=11))
    asked = sum(int((batch.targets >= 0).sum()) for batch in batches)
    flat = {low: [hit for row in rows for hit in row] for low, rows in hits.items()}
    assert sum(map(len, flat.values())) == asked
    assert all(all(found) == (low <= 4) and any(found) == (low <= 4) for low, found in flat.items())
    assert list(hits) == sorted(hits) and set(hits) <= {2, 4, 8, 16, 32}


def test_near_queries_are_grouped_by_their_sequence() -> None:
    batches = list(RecallFeed(TASK, 40, 8).validation())[:2]
    hits = near(Memory(7), batches, ReadOptions())
    single = [replace(b, tokens=b.tokens[n : n + 1], targets=b.targets[n : n + 1]) for b in batches for n in range(8)]
    alone = [near(Memory(7), [row], ReadOptions()) for row in single]
    for low, rows in hits.items():
        assert sorted(rows) == sorted(row for one in alone for row in one.get(low, []))


def test_distances_are_to_the_last_occurrence() -> None:
    assert distances(np.array([[1, 2, 1, 1, 3, 2]])).tolist() == [[0, 0, 2, 1, 0, 4]]
