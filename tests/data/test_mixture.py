"""Mixtures: exact shares, pure batches, and what they are validated on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridkit.data.mixture import Mixture, floor_sum
from hybridkit.data.recipe_data import describe_feed, first_text, open_feed, text_digest
from hybridkit.data.sources.recall import RecallFeed, RecallTask
from hybridkit.recipe.schema import Data, Train
from hybridkit.system.errors import UserError

WEIGHTS = {"a": 0.7, "b": 0.2, "c": 0.1}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three sources, each of one letter; the first is much longer than the others."""
    folder = tmp_path_factory.mktemp("texts")
    for name, lines in (("a", 900), ("b", 60), ("c", 80)):
        (folder / f"{name}.txt").write_text(f"{name * 20}\n" * lines)
    return {name: folder / f"{name}.txt" for name in WEIGHTS}


def data(texts: dict[str, Path], **changes: object) -> Data:
    parts = [{"source": str(texts[name]), "weight": weight, "name": name} for name, weight in WEIGHTS.items()]
    return Data.model_validate({"source": parts, "sequence": 16, "validation": 0.1} | changes)


def mixed(texts: dict[str, Path], seed: int = 0, **changes: object) -> Mixture:
    made = open_feed(data(texts, **changes), Train(batch_tokens=16 * 10, seed=seed))
    assert isinstance(made, Mixture)
    return made


@pytest.mark.slow
@given(st.integers(0, 200), st.integers(1, 1000), st.integers(0, 3000), st.integers(0, 3000))
@settings(max_examples=200, deadline=None)
def test_a_sum_of_floors(terms: int, modulus: int, slope: int, offset: int) -> None:
    assert floor_sum(terms, modulus, slope, offset) == sum((slope * k + offset) // modulus for k in range(terms))


def test_shares_hold_at_every_step_and_metrics_count_what_was_given(texts: dict[str, Path]) -> None:
    """Better than a random draw, whose share of n sequences lies within 4 standard deviations nearly always."""
    feed, given = mixed(texts), dict.fromkeys(WEIGHTS, 0)
    for step in range(40):
        letters = [
            max(map(row.count, "abc")) and max("abc", key=row.count) for row in map(_text, feed.batch(step).tokens)
        ]
        for letter in letters:
            given[letter] += 1
        n = 10 * (step + 1)
        for name, weight in WEIGHTS.items():
            assert abs(given[name] / n - weight) <= 4 * (weight * (1 - weight) / n) ** 0.5
        assert feed.tokens(step + 1) == {f"tokens.{name}": 16 * count for name, count in given.items()}


def test_a_last_part_of_hardly_any_weight_is_never_drawn(texts: dict[str, Path]) -> None:
    parts = [{"source": str(texts["a"]), "name": "a"}, {"source": str(texts["b"]), "name": "b", "weight": 1e-30}]
    feed = mixed(texts, source=parts)
    assert feed.tokens(1000) == {"tokens.a": 160_000, "tokens.b": 0}
    assert set(_text(feed.batch(0).tokens)) <= {"a", "\n"}


def test_every_row_is_the_next_one_of_its_source(texts: dict[str, Path]) -> None:
    feed, seen = mixed(texts), dict.fromkeys(WEIGHTS, 0)
    for step in range(12):
        batch = feed.batch(step)
        for row in range(10):
            (name,) = [part for part in feed.parts if part.name == max("abc", key=_text(batch.tokens[row]).count)]
            own, place = divmod(seen[name.name], 10)
            single = name.feed.batch(own, slice(place, place + 1))
            assert torch.equal(batch.tokens[row], single.tokens[0]) and torch.equal(
                batch.targets[row], single.targets[0]
            )
            assert torch.equal(batch.document_starts[row], single.document_starts[0])
            seen[name.name] += 1


def test_batches_are_pure_and_cut_anywhere(texts: dict[str, Path]) -> None:
    feed, again, other = mixed(texts), mixed(texts), mixed(texts, seed=1)
    whole = again.batch(7)
    halves = [feed.batch(7, slice(rank, None, 2)) for rank in range(2)]
    for rank, half in enumerate(halves):
        assert torch.equal(half.tokens, whole.tokens[rank::2]) and torch.equal(half.targets, whole.targets[rank::2])
    assert sum(half.bytes for half in halves) == whole.bytes
    assert not torch.equal(other.batch(7).tokens, whole.tokens)
    picked = feed.batch(7, np.array([8, 3]))
    assert torch.equal(picked.tokens, whole.tokens[[8, 3]])


def test_text_and_a_task_mix(texts: dict[str, Path]) -> None:
    source = [{"source": str(texts["a"]), "weight": 1.0}, {"source": "recall(pairs=2)", "weight": 1.0}]
    feed = open_feed(Data.model_validate({"source": source, "sequence": 32}), Train(batch_tokens=32 * 8))
    batch = feed.batch(0)
    asked = (batch.targets >= 0).sum(1)
    assert set((asked > 20).tolist()) == {True, False} and batch.document_starts.shape == (8, 32)
    with pytest.raises(UserError, match="leave the tokenizer at `bytes`"):
        open_feed(
            Data.model_validate({"source": source, "sequence": 32, "tokenizer": "train(300)"}), Train(batch_tokens=256)
        )


def test_a_part_that_changes_does_so_by_the_steps_of_training() -> None:
    """It counted its own batches, of which a step has a quarter here."""
    source = [{"source": "recall(pairs=2,far=.5,far_begin=4,far_end=8)"}, {"source": "recall(pairs=3)", "weight": 3.0}]
    feed, seen = open_feed(Data.model_validate({"source": source, "sequence": 32}), Train(batch_tokens=32 * 8)), 0
    assert isinstance(feed, Mixture)
    for step in range(10):
        batch, share = feed.batch(step), 0.5 * min(max((step - 4) / 4, 0), 1)
        fixed = RecallFeed(RecallTask(pairs=2, far=share), 32, 8)
        for row in range(8):
            if feed.count(0, 8 * step + row + 1) > seen:
                single = fixed.batch(seen // 8, slice(seen % 8, seen % 8 + 1))
                assert torch.equal(batch.tokens[row], single.tokens[0]), (step, row)
                assert torch.equal(batch.targets[row], single.targets[0]), (step, row)
                seen += 1
    assert seen == feed.count(0, 80) > 15


def test_one_tokenizer_for_all_parts(texts: dict[str, Path]) -> None:
    feed = mixed(texts, tokenizer="train(300)")
    assert len({part.feed.tokenizer.digest for part in feed.parts}) == 1
    assert feed.digest == text_digest(data(texts, tokenizer="train(300)"))


def test_validation_has_sources_of_its_own(texts: dict[str, Path]) -> None:
    feed = mixed(texts, validation={"mine": str(texts["b"]), "theirs": str(texts["c"])})
    assert list(feed.held_out) == ["mine", "theirs"] and not feed.weighted
    held = "".join(map(_text, torch.cat([batch.tokens for batch in feed.held_out["mine"].validation()])))
    assert held.count("b") >= 0.98 * 60 * 20 and "a" not in held
    lines = describe_feed(feed, Train(batch_tokens=160, steps=3), 257)
    assert any("validation on theirs: 1 document: held out all" in line for line in lines)
    assert any(line.startswith("a: 70.0% of the sequences") for line in lines)
    single = first_text(data(texts, validation=str(texts["c"])))
    assert single.source == str(texts["c"]) and single.validation == 1


def test_a_part_that_cannot_be_read_is_named(texts: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("ab")
    parts = [{"source": str(texts["a"])}, {"source": str(tmp_path / "short.txt"), "name": "brief"}]
    with pytest.raises(UserError, match=r"the training text has 2; .* \(part brief of the mixture\)"):
        mixed(texts, source=parts)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": []}, "a list of"),
        ({"source": [{"source": "stdlib", "weight": -1.0}]}, "part 0: weight should be greater than or equal to 0"),
        ({"source": [{"source": "stdlib", "weight": 0.0}]}, "above 0"),
        (
            {"source": [{"source": "stdlib", "weight": 1e308}, {"source": "a", "weight": 1e308}]},
            "part 0: weight should be",
        ),
        ({"source": [{"source": "stdlib"}, {"source": "stdlib"}]}, "two parts called stdlib"),
        ({"source": [{"sourse": "stdlib"}]}, "has no 'sourse'"),
        ({"source": 3}, "should be a source"),
        ({"validation": 1.5}, "a share between 0 and 1, a source"),
        ({"validation": {}}, "a share between 0 and 1, a source"),
    ],
)
def test_mixtures_that_make_no_sense_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Data.model_validate(changes)


def _text(tokens: torch.Tensor) -> str:
    return "".join(chr(token) for token in tokens.flatten().tolist() if token < 256)
