"""The split goes by the amount of text: how much is held out, whatever the corpus; copies together; what came stays."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridkit.data.batches import Batches
from hybridkit.data.corpus import prepare_corpus
from hybridkit.data.recipe_data import describe_feed
from hybridkit.data.split import SPLIT_TOLERANCE, cut_pieces, cut_place, document_hash, split
from hybridkit.recipe.schema import Train
from hybridkit.system.errors import UserError


def lines(count: int, seed: int) -> bytes:
    rng = random.Random(seed)
    return "".join(f"{rng.randrange(10**6)} {'wörd ' * rng.randrange(9)}\n" for _ in range(count)).encode()


def sides(documents: list[bytes], fraction: float, rules: int = 2) -> tuple[list[bytes], list[bytes]]:
    text, hashes = b"".join(documents), np.array([*map(document_hash, documents)], np.uint64)
    train, held = split(text, np.cumsum([*map(len, documents)]).tolist(), hashes, fraction, rules)
    spans = sorted(train + held)
    assert [begin for begin, _ in spans] == [0, *(end for _, end in spans[:-1])] and spans[-1][1] == len(text)
    assert train == sorted(train) and held == sorted(held) and train and held
    train_text, held_text = ([text[slice(*span)] for span in side] for side in (train, held))
    [stretch.decode() for stretch in train_text + held_text]  # no character is cut in two
    return train_text, held_text


BOOK, NOTES = lines(1600, 0), [lines(3, seed) for seed in range(1, 17)]
CORPORA = {
    "a book and notes": [BOOK, *NOTES],
    "notes and a book": [*NOTES, BOOK],
    "books": [BOOK, lines(3000, 99)],
    "the same book twice": [BOOK, BOOK],
    "notes of one size": [b"%06d" % n + b"." * 94 for n in range(2000)],
    "a book among copies of a note": [NOTES[0]] * 50 + [BOOK],
    "one line again and again": [b"the same line\n" * 5000, b"another\n" * 900],
    "no line ends": ["é".encode() * 20_000, b"x" * 3000],
    "one document": [BOOK],
    "two long lines": [b"a" * 20_000 + b"\n" + b"b" * 20_000],
}


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", CORPORA)
def test_as_much_text_is_held_out_as_was_asked_for(name: str, fraction: float) -> None:
    documents = CORPORA[name]
    _, held = sides(documents, fraction)
    share = sum(map(len, held)) / sum(map(len, documents))
    assert (
        abs(share - fraction) <= SPLIT_TOLERANCE * min(fraction, 1 - fraction) + 1e-4
    )  # a character, where one is cut
    assert sides(documents, fraction)[1] == held


def test_by_rules_1_documents_were_counted() -> None:
    """The split of older runs, which their evaluation goes on with; here it holds out nearly everything."""
    documents = CORPORA["a book and notes"]
    shares = {fraction: sides(documents, fraction, rules=1) for fraction in (0.02, 0.1, 0.5)}
    for fraction, (train, held) in shares.items():
        hashes = [document_hash(document) for document in documents]
        below = [document for document, number in zip(documents, hashes, strict=True) if number < fraction * 2**64]
        assert held == (below or [min(documents, key=document_hash)]) and sorted(train + held) == sorted(documents)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=4000).map(bytes.hex), min_size=1, max_size=30), st.data())
def test_copies_of_a_document_fall_together(texts: list[str], data: st.DataObject) -> None:
    documents = [text.encode() for text in texts]
    again = [data.draw(st.sampled_from(documents)) for _ in range(data.draw(st.integers(1, 9)))]
    if len({*documents}) > 1:
        train, held = sides(documents + again, data.draw(st.sampled_from([0.02, 0.2, 0.5, 0.8])))
        whole = {*documents}
        assert not whole & {*train} & {*held}


def test_a_document_stays_on_its_side_when_others_are_added() -> None:
    """No document of many changes sides; of few, where the sides have to be balanced, at most 4 do."""
    documents = [lines(4, seed) for seed in range(3000)]
    before = {*sides(documents[:2000], 0.1)[1]}
    after = {*sides(documents, 0.1)[1]}
    assert before == after & {*documents[:2000]}
    few, more = {*sides(documents[:60], 0.1)[1]}, {*sides(documents[:90], 0.1)[1]}
    assert len(few ^ (more & {*documents[:60]})) <= 4


@given(st.text("ab\né😀", max_size=200), st.integers(1, 40))
def test_pieces_are_whole_characters_and_not_too_long(text: str, most: int) -> None:
    raw = text.encode()
    pieces = [raw[slice(*span)] for span in cut_pieces(raw, 0, len(raw), most)]
    assert b"".join(pieces) == raw and all(piece.decode() for piece in pieces)
    assert all(len(piece) <= max(most, 4) for piece in pieces)


def test_a_far_line_end_is_not_where_one_document_is_cut() -> None:
    raw = b"a" * 1000 + b"\n" + b"b" * 1000
    assert cut_place(raw, 0.02, rules=1) == 1001 and cut_place(raw, 0.02) == round(0.98 * 2001)


def test_an_older_run_is_evaluated_on_the_text_that_it_held_out(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    for place, document in enumerate(CORPORA["a book and notes"]):
        (tmp_path / "text" / f"{place:02}").write_bytes(document)
    old, new, again = (
        prepare_corpus(str(tmp_path / "text"), validation=0.1, cache=tmp_path, rules=r) for r in (1, 2, 1)
    )
    held = sides(CORPORA["a book and notes"], 0.1, rules=1)[1]
    assert old.tokenizer.decode(old.validation.ids) == b"".join(held)
    assert old.digest == again.digest != new.digest and old.validation.raw != new.validation.raw


@pytest.mark.slow
def test_a_run_says_what_was_read(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    for name, raw in {"a": BOOK, "b": lines(900, 7), "c": b"", "d": b"\0ELF", "e": b"\xff\xfe"}.items():
        (tmp_path / "text" / name).write_bytes(raw)
    corpus = prepare_corpus(str(tmp_path / "text"), "train(5000)", validation=0.1, cache=tmp_path)
    for found in (corpus, prepare_corpus(str(tmp_path / "text"), "train(5000)", validation=0.1, cache=tmp_path)):
        said = "\n".join(describe_feed(Batches(found, 64, 8), Train(steps=10, batch_tokens=512), vocab=5000))
        assert f"{len(corpus.train):,} tokens" in said and f"{len(corpus.validation):,} tokens" in said
        assert f"{5120 / len(corpus.train):,.2f} epochs" in said and "2 documents" in said
        assert "left out: 1 empty, 2 not UTF-8 text" in said
        assert f"{corpus.tokenizer.vocab:,} tokens, and the model 5,000 rows" in said and "warning" in said
    assert corpus.train.documents[-1] == len(corpus.train)
    ends = (corpus.train.ids == corpus.tokenizer.end).sum()
    assert ends == len(corpus.train.documents) - 1


def test_a_single_character_cannot_be_split(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("é")
    with pytest.raises(UserError, match="single character"):
        prepare_corpus(str(tmp_path / "a"), cache=tmp_path / "cache")
