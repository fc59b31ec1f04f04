"""A damaged cache of texts counts as absent, whatever the damage: no byte of it is believed unseen."""

import json
from pathlib import Path

import pytest

from hybridkit.data import cache
from hybridkit.data.cache import MANIFEST, find_entry, valid_manifest
from hybridkit.data.corpus import Corpus, prepare_corpus

WORDS = {"type": "WordLevel", "vocab": {"[UNK]": 0, "alpha": 1, "beta": 2}, "unk_token": "[UNK]"}
SHAPES = [b"", b"[]", b"null", b"3", b'"x"', b"{}", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000]
SHAPES += [b'{"files": []}', b'{"files": 3}', b'{"files": {}}', b'{"folder": 3, "skipped": []}']


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Documents, an empty one that is left out, and a tokenizer that needs a file of lengths."""
    (tmp_path / "text").mkdir()
    for number in range(12):
        (tmp_path / "text" / f"{number:02}.txt").write_text(f"alpha beta {number}\n" * number)
    (tmp_path / "words.json").write_text(
        json.dumps({"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, "model": WORDS})
    )
    return tmp_path


def opened(folder: Path) -> Corpus:
    """The corpus as another process opens it."""
    cache._hash_once.cache_clear()
    words = str(folder / "words.json")
    return prepare_corpus(str(folder / "text"), words, validation=0.2, cache=folder / "cache")


def content(corpus: Corpus) -> list[object]:
    sides = [(side.ids.tolist(), side.documents.tolist(), side.raw) for side in (corpus.train, corpus.validation)]
    lengths = [side.lengths.tolist() for side in (corpus.train, corpus.validation) if side.lengths is not None]
    return [corpus.digest, str(corpus), corpus.tokenizer.saved, dict(corpus.skipped), sides, lengths]


def test_a_changed_byte_in_any_file_is_noticed(folder: Path) -> None:
    whole = opened(folder)
    wanted = content(whole)
    files = {path: path.read_bytes() for path in [*whole.folder.iterdir(), *whole.folder.parent.glob("*.seen")]}
    assert {path.suffix for path in files} == {".ids", ".documents", ".lengths", ".json", ".seen"}
    for path, raw in files.items():
        changed = bytearray(raw)
        changed[len(raw) // 2] ^= 1
        path.write_bytes(changed)
        assert content(opened(folder)) == wanted
        assert path.read_bytes() == raw, f"{path.name} was not built anew"


def test_a_file_is_hashed_once_a_process(folder: Path) -> None:
    opened(folder)
    before = cache._hash_once.cache_info().misses
    for _ in range(2):
        prepare_corpus(str(folder / "text"), str(folder / "words.json"), validation=0.2, cache=folder / "cache")
    assert cache._hash_once.cache_info().misses == before > 0


@pytest.mark.parametrize("raw", SHAPES, ids=range(len(SHAPES)))
def test_json_of_another_shape_counts_as_absent(tmp_path: Path, raw: bytes) -> None:
    for name in ("stamp.seen", MANIFEST):
        (tmp_path / name).write_bytes(raw)
    assert find_entry(tmp_path, "stamp") is None and valid_manifest(tmp_path) is None


def test_of_a_large_file_size_and_stretches_are_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_WHOLE", 100)
    monkeypatch.setattr(cache, "_STRETCH", 4)
    monkeypatch.setattr(cache, "_STRETCHES", 10)
    file, text = tmp_path / "large", bytes(range(200))
    changes = [text, text[:-1], *(text[:at] + b"x" + text[at + 1 :] for at in (0, 23, 182))]
    found = set()
    for content in changes:
        file.write_bytes(content)
        cache._hash_once.cache_clear()
        found.add(cache._hash(file))
    assert len(found) == len(changes)
