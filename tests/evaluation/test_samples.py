"""Samples: the largest haystack that fits and no larger, the same for everybody, and clear errors for what does not."""

import random
from pathlib import Path

import pytest

from hybridkit.data.tokenizer import ByteTokenizer
from hybridkit.evaluation import samples as module
from hybridkit.evaluation.haystack import Essays, open_essays
from hybridkit.evaluation.ruler import GROUPS
from hybridkit.evaluation.samples import Samples, largest
from hybridkit.evaluation.task import ANSWER_TOKENS, choose_task
from hybridkit.system.errors import UserError


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HYBRIDKIT_CACHE", str(tmp_path))


def made(task: str, length: int, count: int = 3, seed: int = 42, essays: Essays | None = None) -> Samples:
    samples = Samples(task, length, seed, ByteTokenizer(), "bytes", essays or open_essays())
    assert list(samples.prepare(count)) == list(range(1, count + 1))
    return samples


@pytest.mark.slow
@pytest.mark.parametrize("task", GROUPS["all"])
@pytest.mark.parametrize("length", [1024, 3000])
def test_no_larger_haystack_fits(task: str, length: int) -> None:
    samples = made(task, length)
    for index in range(3):
        sample, units = samples[index], samples._sizes[index]
        assert sample.tokens == len(sample.prompt.text.encode()) <= length - ANSWER_TOKENS
        rng = random.Random(f"42/{task}/{length}/{index}")
        larger = choose_task(task).prompt(units + 1, rng, open_essays())
        assert len(larger.text.encode()) > length - ANSWER_TOKENS


@pytest.mark.parametrize("slope", [0.3, 1.0, 7.0, 300.0])
@pytest.mark.parametrize("limit", [50, 51, 1000, 123_456])
def test_the_largest_size_is_found_in_few_trials(slope: float, limit: int) -> None:
    rng = random.Random(0)
    bumps = [rng.random() for _ in range(500_000)]
    calls = []

    def size(n: int) -> int:
        calls.append(n)
        return int(20 + slope * (n + bumps[n % len(bumps)]))

    least = 1
    if size(least) > limit:
        return
    n = largest(size, least, limit, size(least))
    assert size(n) <= limit < size(n + 1) and len(calls) < 25


def test_samples_are_the_same_for_the_same_seed_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    first = made("niah_multikey_2", 1500)
    monkeypatch.setattr(module, "largest", lambda *_: pytest.fail("sized again"))
    again = Samples("niah_multikey_2", 1500, 42, ByteTokenizer(), "bytes", open_essays())
    assert list(again.prepare(3)) == [] and [again[n] for n in range(3)] == [first[n] for n in range(3)]


def test_other_seeds_lengths_and_indices_are_other_samples() -> None:
    samples = [made("niah_single_1", 1024), made("niah_single_1", 1024, seed=1), made("niah_single_1", 1100)]
    prompts = {one[index].prompt.text for one in samples for index in range(3)}
    assert len(prompts) == 9 and len({one.digest for one in samples}) == 3


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(UserError, match="niah_multiquery at length 300: the question and the least haystack take"):
        made("niah_multiquery", 300)
    short = Essays("short.txt", ("One", "two."))
    with pytest.raises(UserError, match="too few for the lengths"):
        made("niah_single_2", 1024, essays=short)
    assert made("niah_single_1", 1024, essays=short)[0].tokens <= 1024  # noise needs no essays


def test_a_haystack_is_read_from_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        open_essays(tmp_path / "none.txt")
    with pytest.raises(UserError, match="holds no text"):
        open_essays(tmp_path)
    (tmp_path / "b.txt").write_text("Third one.")
    (tmp_path / "a.md").write_text("First. Second\n\nline.")
    essays = open_essays(tmp_path)
    assert essays.sentences(5) == ["First.", "Second line.", "Third one."]
    (tmp_path / "c.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"not UTF-8 text \(byte 0\)"):
        open_essays(tmp_path)
