"""Batches: a pure function of the step, the same on any number of ranks; every byte counted once."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from hybridkit.data.batches import IGNORED, Batch, Batches, Feed, _shuffled, cover
from hybridkit.data.corpus import Corpus, prepare_corpus
from hybridkit.system.errors import UserError


@pytest.fixture(scope="module", params=["bytes", "train(300)", "words"])
def corpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "text").mkdir()
    for number in range(50):
        (folder / "text" / f"{number}.txt").write_text(f"return x * {number} - é\n" * (number % 7 + 1))
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "return": 1, "x": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(folder / "words"))
    name = request.param.replace("words", str(folder / "words"))
    return prepare_corpus(str(folder / "text"), name, validation=0.3, cache=folder)


def same(a: Batch, b: Batch) -> bool:
    document_starts = a.document_starts is b.document_starts is None or (
        a.document_starts is not None and torch.equal(a.document_starts, b.document_starts)
    )  # type: ignore[arg-type]
    return (
        torch.equal(a.tokens, b.tokens) and torch.equal(a.targets, b.targets) and document_starts and a.bytes == b.bytes
    )


def test_a_batch_depends_on_seed_and_step_alone(corpus: Corpus) -> None:
    one, two = Batches(corpus, 16, 4, seed=1), Batches(corpus, 16, 4, seed=1)
    steps = [0, 7, 3, 10**12, 7, 0]
    assert all(same(one.batch(step), two.batch(step)) for step in reversed(steps) for _ in (two.batch(99),))
    assert not torch.equal(one.batch(0).tokens, one.batch(1).tokens)
    assert not torch.equal(one.batch(0).tokens, Batches(corpus, 16, 4, seed=2).batch(0).tokens)


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("documents", ["reset", "flow"])
def test_ranks_share_the_batch(corpus: Corpus, ranks: int, documents: str) -> None:
    feed: Feed = Batches(corpus, 16, 8, documents=documents)  # type: ignore[arg-type]
    for step in (0, 5, 123_456):  # the last lies epochs away
        whole = feed.batch(step)
        parts = [feed.batch(step, slice(rank, None, ranks)) for rank in range(ranks)]
        for rank, part in enumerate(parts):
            assert torch.equal(part.tokens, whole.tokens[rank::ranks])
            assert torch.equal(part.targets, whole.targets[rank::ranks])
            assert part.document_starts is None or torch.equal(part.document_starts, whole.document_starts[rank::ranks])  # type: ignore[index]
        assert sum(part.bytes for part in parts) == whole.bytes


def test_an_epoch_takes_every_chunk_once(corpus: Corpus) -> None:
    sequence, batch = 16, 3
    feed = Batches(corpus, sequence, batch, documents="flow")
    pairs = np.stack([corpus.train.ids, np.roll(corpus.train.ids, -1)], 1)  # every token and the one after, in a ring
    for epoch in range(3):
        rows = range(epoch * feed.chunks, (epoch + 1) * feed.chunks)
        found = [feed.batch(row // batch, slice(row % batch, row % batch + 1)) for row in rows]
        seen = np.stack(
            [np.concatenate([b.tokens[0] for b in found]), np.concatenate([b.targets[0] for b in found])], 1
        )
        kinds, counts = np.unique(pairs, axis=0, return_counts=True)
        have = dict(zip(map(tuple, kinds.tolist()), counts.tolist(), strict=True))
        for kind, count in zip(*np.unique(seen, axis=0, return_counts=True), strict=True):
            assert count <= have[tuple(kind.tolist())]
        assert len(seen) == feed.chunks * sequence > len(pairs) - sequence
    assert not torch.equal(feed.batch(0, slice(0, 1)).tokens, found[0].tokens)


def test_targets_follow_tokens_and_starts_follow_ends(corpus: Corpus) -> None:
    end = corpus.tokenizer.end
    reset, flow = Batches(corpus, 24, 8), Batches(corpus, 24, 8, documents="flow")
    for step in range(20):
        a, b = reset.batch(step), flow.batch(step)
        assert torch.equal(a.tokens, b.tokens) and b.document_starts is None and a.document_starts is not None
        assert torch.equal(b.targets[:, :-1], b.tokens[:, 1:])
        assert torch.equal(a.document_starts[:, 1:], a.tokens[:, :-1] == end)
        assert torch.equal(a.targets == IGNORED, a.tokens == end)
        assert torch.equal(a.targets[a.tokens != end], b.targets[a.tokens != end])
        assert a.tokens.dtype == a.targets.dtype == torch.int64 and a.tokens.is_contiguous()


def test_a_sequence_that_begins_with_a_document_says_so(corpus: Corpus) -> None:
    firsts = set(corpus.train.documents[:-1].tolist())
    for begin, batch in enumerate(cover(corpus.train, 1, 1)):
        assert batch.document_starts is not None and bool(batch.document_starts[0, 0]) == (begin in firsts)


@pytest.mark.parametrize("sequence", [1, 7, 16, 100_000])
@pytest.mark.parametrize("documents", ["reset", "flow"])
def test_validation_counts_every_byte_once(corpus: Corpus, sequence: int, documents: str) -> None:
    tokens = corpus.validation
    firsts = tokens.documents[:-1] if documents == "reset" else np.array([0])
    batches = list(cover(tokens, sequence, 4, documents))  # type: ignore[arg-type]
    counted = torch.cat([batch.targets[batch.targets != IGNORED] for batch in batches])
    expected = np.delete(tokens.ids, firsts)
    np.testing.assert_array_equal(counted.numpy(), expected)
    assert sum(batch.bytes for batch in batches) == tokens.raw - tokens.bytes_at(firsts).sum()


def test_bits_per_byte_do_not_depend_on_how_text_is_cut(corpus: Corpus) -> None:
    """A model that gives each token a probability of its own: its bits are a sum over tokens, its bytes over text."""
    tokens = corpus.validation
    nats = torch.linspace(0.1, 3, corpus.tokenizer.vocab, dtype=torch.float64)

    def bits(sequence: int, batch: int) -> float:
        batches = list(cover(tokens, sequence, batch))
        total = sum(nats[b.targets[b.targets != IGNORED]].sum().item() for b in batches)
        return total / math.log(2) / sum(b.bytes for b in batches)

    assert bits(8, 3) == pytest.approx(bits(64, 1), rel=1e-12)  # sums in another order


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 63, 64, 65, 1000, 4097])
def test_the_order_is_a_permutation(size: int) -> None:
    for epoch in range(3):
        assert sorted(_shuffled(np.arange(size), size, 7, epoch).tolist()) == list(range(size))


@pytest.mark.slow
def test_the_order_is_that_of_a_fair_shuffle() -> None:
    """Every place is as likely as another; 4 standard deviations."""
    counts = np.zeros((6, 6))
    for epoch in range(3000):
        counts[np.arange(6), _shuffled(np.arange(6), 6, 0, epoch)] += 1
    assert np.abs(counts - 500).max() < 4 * (3000 * 5 / 36) ** 0.5
    far = _shuffled(np.arange(10_000), 10**12, 0, 0)  # constant memory: a corpus of 10**12 chunks
    assert len(set(far.tolist())) == 10_000 and abs(far.mean() / 10**12 - 0.5) < 4 / (12 * 10_000) ** 0.5
    assert abs(np.corrcoef(far[:-1], far[1:])[0, 1]) < 4 / 10_000**0.5


def test_the_order_never_changes() -> None:
    """A run must resume in the same order under any later version; these values are what was written first."""
    assert _shuffled(np.arange(8), 8, 0, 0).tolist() == [4, 6, 7, 1, 2, 5, 0, 3]
    assert _shuffled(np.arange(5), 10**9, 3, 2).tolist() == [580138062, 833500138, 480519749, 1940636, 207263329]


def test_a_corpus_shorter_than_a_sequence(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("line\n" * 20)
    corpus = prepare_corpus(str(tmp_path / "a.txt"), validation=0.1, cache=tmp_path)
    have = len(corpus.train)
    with pytest.raises(
        UserError, match=rf"needs {have + 1} tokens, and the training text has {have};.* at most {have - 1}$"
    ):
        Batches(corpus, have, 1)
    batch = Batches(corpus, have - 1, 2).batch(3)
    assert batch.tokens.shape == (2, have - 1)
