"""A document that is never held as a whole gives the corpus that it gives when it is."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from hybridkit.data import prepare, readers
from hybridkit.data.corpus import Corpus, prepare_corpus
from hybridkit.data.readers import LongText, NotText, read_documents
from hybridkit.data.source import open_text
from hybridkit.system.errors import UserError

TEXT = "".join(f"line {n}: ä → 漢字 {'x' * (n % 13)}\n" for n in range(60))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "long.txt").write_text(TEXT, encoding="utf-8")
    (folder / "short.txt").write_text("a short one\n")
    return folder


def in_parts(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(readers, "LONG", 100)
    for module in (readers, prepare):
        monkeypatch.setattr(module, "PART", size)


@pytest.mark.parametrize("name", ["", "long.txt"])
@pytest.mark.parametrize("size", [7, 64, 10_000])
def test_tokens_split_and_digest_are_the_same(
    name: str, size: int, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(cache: str) -> Corpus:
        return prepare_corpus(str(source / name), validation=0.2, cache=tmp_path / cache)

    whole = made("whole")
    in_parts(monkeypatch, size)
    assert any(isinstance(one, LongText) for one in read_documents(source / "long.txt", "text"))
    parts = made("parts")
    assert parts.digest == whole.digest and parts.folder.name == whole.folder.name
    for a, b in ((parts.train, whole.train), (parts.validation, whole.validation)):
        assert np.array_equal(a.ids, b.ids) and np.array_equal(a.documents, b.documents) and a.raw == b.raw


@pytest.mark.parametrize("size", [7, 64])
def test_what_is_no_text_is_found_at_its_byte_and_left_out_of_a_folder(
    size: int, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_parts(monkeypatch, size)
    good = TEXT.encode()
    wrong = {"cut": (good + "字".encode()[:2], len(good)), "bad": (good[:300] + b"\xff" + good[300:], 300)}
    wrong |= {"nul": (good[:-1] + b"\0", len(good) - 1)}
    for name, (raw, place) in wrong.items():
        (source / f"{name}.txt").write_bytes(raw)
        with pytest.raises(NotText, match=rf"byte {place}\b"):
            list(read_documents(source / f"{name}.txt", "text"))
    skipped = Counter[str]()
    found = list(open_text(str(source)).documents("text", skipped))
    assert len(found) == 2 and skipped == {"not UTF-8 text": 3}


def test_a_tokenizer_that_needs_more_than_the_memory_says_so(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*said: object) -> None:
        raise MemoryError

    monkeypatch.setattr(prepare, "_tokenized", full)
    with pytest.raises(UserError, match=r"too large to be held in memory, as data.tokenizer: train\(300\) needs"):
        prepare_corpus(str(source), "train(300)", cache=tmp_path / "cache")
