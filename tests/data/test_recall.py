"""The recall task: what its sequences promise, checked token by token against a plain reading of them."""

import numpy as np
import pytest
import torch

from hybridkit.data.batches import IGNORED, Batch
from hybridkit.data.recipe_data import context_length, feed_source, held_out_batches, open_feed
from hybridkit.data.source import open_source
from hybridkit.data.sources.recall import RecallFeed, RecallTask, UniformNumbers, make_sequences
from hybridkit.recipe.schema import Data, Train
from hybridkit.system.errors import UserError

TASK = RecallTask(pairs=3, keys=8, values=8, noises=4)


def kinds(task: RecallTask, token: int) -> str:
    first = task.first
    if first.noise <= token < first.key:
        return "noise"
    return "key" if token < first.value else "value"


@pytest.mark.parametrize("far", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("tokens", [40, 41])
def test_targets_are_the_values_of_keys_seen_before_and_no_others(far: float, tokens: int) -> None:
    task = TASK.model_copy(update={"far": far})
    made, targets = make_sequences(task, UniformNumbers(0), 64, tokens)
    assert made.shape == targets.shape == (64, tokens)
    for row, wanted in zip(made.tolist(), targets.tolist(), strict=True):
        bound: dict[int, int] = {}
        for place in range(0, tokens, 2):
            key, following = row[place], row[place + 1 : place + 2]
            if kinds(task, key) == "key":
                assert wanted[place] == bound.get(key, IGNORED)
                bound[key] = following[0] if following else 0
            else:
                assert wanted[place] == IGNORED and all(kinds(task, token) == "noise" for token in following)
            assert wanted[place + 1 : place + 2] in ([], [IGNORED])
        assert len(bound) <= task.pairs


def test_the_share_of_far_queries_rises_between_two_steps() -> None:
    """Shares of 400 sequences that end in every key's query, within four standard errors; before and after exactly."""
    task = RecallTask(pairs=3, keys=8, values=8, noises=4, far=0.5, far_begin=10, far_end=30)
    always = task.model_copy(update={"far_begin": 0, "far_end": 0})
    feed, plain, never = (RecallFeed(one, 40, 400) for one in (task, always, TASK))
    for step, like in ((0, never), (10, never), (30, plain), (99, plain)):
        assert torch.equal(feed.batch(step).targets, like.batch(step).targets)
    asked = feed.batch(20).targets.numpy() != IGNORED
    share = np.mean(asked[:, -6::2].all(1) & ~asked[:, :-6].any(1))
    expected = task.model_copy(update={"far": 0.25}).far_sequences(20)
    assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 400) ** 0.5)
    assert torch.equal(next(feed.validation()).targets, next(plain.validation()).targets)
    assert feed.digest != plain.digest
    for wrong in ("recall(far=.5,far_begin=9,far_end=9)", "recall(far_end=9)"):
        with pytest.raises(UserError, match="far"):
            open_source(wrong)


def test_values_follow_their_keys_all_along() -> None:
    made, targets = make_sequences(TASK, UniformNumbers(1), 200, 60)
    asked = targets[:, :-1] != IGNORED
    assert asked.sum() > 1000 and (made[:, 1:][asked] == targets[:, :-1][asked]).all()


def test_shares_are_those_asked_for() -> None:
    """Within four standard errors of about 13,000 slots and 2,000 sequences."""
    task = RecallTask(noise=0.3, far=0.4)
    made, targets = make_sequences(task.model_copy(update={"far": 0.0}), UniformNumbers(2), 200, 128)
    noise = np.mean([kinds(task, token) == "noise" for token in made[:, ::2].flat])
    assert noise == pytest.approx(0.3, abs=0.017)
    assert (targets != IGNORED).sum() / 200 == pytest.approx(task.queries(64), rel=0.02)
    made, targets = make_sequences(task, UniformNumbers(3), 2000, 128)
    ends = (targets[:, -12::2] != IGNORED).all(axis=1) & ((targets[:, :-12] == IGNORED).all(axis=1))
    share = 6 * ends.sum() / (targets != IGNORED).sum()
    assert share == pytest.approx(0.4, abs=0.03)


def same(one: Batch, other: Batch) -> bool:
    return torch.equal(one.tokens, other.tokens) and torch.equal(one.targets, other.targets)


def test_a_batch_is_a_function_of_seed_step_and_rows() -> None:
    feed, again = (RecallFeed(TASK, 32, 8, seed=5) for _ in range(2))
    whole = feed.batch(7)
    part = again.batch(7, slice(1, None, 3))
    assert torch.equal(part.tokens, whole.tokens[1::3]) and torch.equal(part.targets, whole.targets[1::3])
    assert not same(feed.batch(8), whole) and not same(RecallFeed(TASK, 32, 8, seed=6).batch(7), whole)
    assert whole.bytes == (whole.targets != IGNORED).sum()


def test_validation_does_not_depend_on_seed_or_batch() -> None:
    parts = [list(RecallFeed(TASK, 64, batch, seed).validation()) for batch, seed in ((7, 0), (64, 1))]
    one, other = (torch.cat([batch.tokens for batch in found]) for found in parts)
    assert torch.equal(one, other) and one.shape == (1024, 64)


def test_streams_never_change() -> None:
    """Runs resume on the same numbers with any release of numpy: these were drawn once and for all."""
    assert UniformNumbers("held out").below(1000, 5).tolist() == [32, 970, 989, 852, 621]


def test_the_call_is_read_and_mistakes_are_pointed_at() -> None:
    assert open_source("recall") == open_source("recall()") == RecallTask()
    assert open_source("recall(4, noise=.25)") == RecallTask(pairs=4, noise=0.25)
    with pytest.raises(UserError, match="no file"):
        open_source("recall.txt")
    for text in ("recall(pairs=33)", "recall(keys=200, values=200)", "recall(pear=1)", "recall(1", "recall(noise=1)"):
        with pytest.raises(UserError, match=r"data\.source:1:"):
            open_source(text)
    with pytest.raises(UserError, match="a single call"):
        open_source("recall(pairs=3):8")


def test_a_feed_is_opened_by_its_name() -> None:
    data, train = Data(source="recall(pairs=2)", sequence=64), Train(batch_tokens=256)
    feed = open_feed(data, train)
    assert feed.batch(0).tokens.shape == (4, 64)
    assert feed.digest != open_feed(data, Train(batch_tokens=256, seed=1)).digest
    assert context_length(data, None) == 1024 and next(held_out_batches(data, 1024, 2)).tokens.shape == (2, 1024)
    with pytest.raises(UserError, match="tokenizer"):
        feed_source(Data(source="recall", tokenizer="train(512)"))
    with pytest.raises(UserError, match="at least 24 tokens"):
        open_feed(Data(source="recall(far=.5)", sequence=16), train)
