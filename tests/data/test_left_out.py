"""What a tokenizer keeps nothing of is told, and only a document that was cut has parts."""

import json
from pathlib import Path

import pytest

from hybridkit.data.corpus import prepare_corpus

WORDS = {"type": "WordLevel", "vocab": {"[UNK]": 0, "alpha": 1}, "unk_token": "[UNK]"}


@pytest.fixture
def words(tmp_path: Path) -> str:
    """A tokenizer that drops blanks."""
    made = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, "model": WORDS}
    (tmp_path / "words.json").write_text(json.dumps(made))
    return str(tmp_path / "words.json")


def test_documents_that_a_tokenizer_drops_are_counted(tmp_path: Path, words: str) -> None:
    rows = [f"alpha {number}" for number in range(40)] + [" " * number for number in range(1, 10)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": row}) for row in [*rows, ""]))
    for _ in range(2):  # built, and from the cache
        corpus = prepare_corpus(str(tmp_path / "a.jsonl"), words, validation=0.2, cache=tmp_path)
        assert corpus.skipped == {"empty": 1, "of which the tokenizer keeps nothing": 9}
        here, there = (len(side.documents) - 1 for side in (corpus.train, corpus.validation))
        assert here + there == 40 and corpus.documents == 49
        assert f"training on {here} documents, " in str(corpus) and f"held out {there} documents, " in str(corpus)


def test_one_is_one_and_parts_are_of_documents_that_were_cut(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    for name in "ab":
        (tmp_path / "two" / name).write_text(f"{name} text")
    said = str(prepare_corpus(str(tmp_path / "two"), validation=0.5, cache=tmp_path))
    assert "training on 1 document, " in said and "held out 1 document, " in said
    (tmp_path / "two" / "a").write_text("".join(f"line {number}\n" for number in range(900)))
    assert "of documents, " in str(prepare_corpus(str(tmp_path / "two"), validation=0.1, cache=tmp_path))
