"""The recall probes: what they ask, and that one who remembers everything is always right."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

import hybridkit as hk
from hybridkit.data.recipe_data import held_out_batches
from hybridkit.data.sources.recall import RecallFeed, RecallTask
from hybridkit.evaluation.recall import distances, far, near, probe
from hybridkit.evaluation.scoring import ReadOptions
from hybridkit.runs.run import Run

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
    flat = {low: [hit for row in one.hits for hit in row] for low, one in hits.items()}
    assert sum(map(len, flat.values())) == asked
    assert all(all(found) == (low <= 4) and any(found) == (low <= 4) for low, found in flat.items())
    assert list(hits) == sorted(hits) and set(hits) <= {2, 4, 8, 16, 32}
    assert all(low <= distance < 2 * low for low, one in hits.items() for distance in one.distances)
    assert [len(one.distances) for one in hits.values()] == list(map(len, flat.values()))


def test_near_queries_are_grouped_by_their_sequence() -> None:
    batches = list(RecallFeed(TASK, 40, 8).validation())[:2]
    hits = near(Memory(7), batches, ReadOptions())
    single = [replace(b, tokens=b.tokens[n : n + 1], targets=b.targets[n : n + 1]) for b in batches for n in range(8)]
    alone = [near(Memory(7), [row], ReadOptions()) for row in single]
    for low, found in hits.items():
        assert sorted(found.hits) == sorted(row for one in alone if low in one for row in one[low].hits)


def test_what_lies_beyond_the_reach_is_counted_query_by_query(tmp_path: Path) -> None:
    """A reach of 11 divides the bin from 8 to 15, all of which counted as within it."""
    recipe = {
        "pattern": "swa:6*2",
        "model": {"width": 16, "heads": 2},
        "data": {"source": "recall(pairs=3, noise=.6)", "sequence": 64},
        "train": {"steps": 1, "batch_tokens": 128, "precision": "fp32", "device": "cpu"},
    }
    run = hk.train(recipe, tmp_path / "run", quiet=True)
    found = hk.evaluate(run, perplexity=False, recall=8, samples=2)
    unseen = {cell["length"]: cell["unseen"] for cell in found["cells"] if cell["task"] == "recall_near"}
    data = Run(run.path).recipe.recipe.data
    asked = [distances(batch.tokens.numpy())[batch.targets >= 0] for batch in held_out_batches(data, 64, 256)]
    back = np.concatenate(asked)
    divided = back[(back >= 8) & (back < 16)]
    assert unseen[8] == np.mean(divided > 11) and 0 < unseen[8] < 1
    assert unseen[4] == 0 and unseen[16] == 1


def test_distances_are_to_the_last_occurrence() -> None:
    assert distances(np.array([[1, 2, 1, 1, 3, 2]])).tolist() == [[0, 0, 2, 1, 0, 4]]
