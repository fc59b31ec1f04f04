"""The corpus and its cache: built once, whole or not at all, changed when the text changes, split by document."""

import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from hybridkit.data.cache import MANIFEST
from hybridkit.data.corpus import Corpus, prepare_corpus
from hybridkit.data.split import cut_place, document_hash, held_out_pieces
from hybridkit.system.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty documents, a few of them odd."""
    rng = random.Random(3)
    (tmp_path / "text").mkdir()
    for number in range(40):
        words = " ".join(rng.choice(["alpha", "beta", "γάμμα", "\n", "δ"]) for _ in range(rng.randrange(1, 90)))
        (tmp_path / "text" / f"{number:02}.txt").write_text(words)
    return tmp_path / "text"


def texts(corpus: Corpus, side: str) -> list[bytes]:
    tokens = getattr(corpus, side)
    return [corpus.tokenizer.decode(tokens.document(number)) for number in range(len(tokens.documents) - 1)]


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("tokenizer", ["bytes", "train(300)"])
def test_every_document_is_on_one_side_and_whole(folder: Path, tmp_path: Path, tokenizer: str) -> None:
    corpus = prepare_corpus(str(folder), tokenizer, validation=0.2, cache=tmp_path)
    train, held = texts(corpus, "train"), texts(corpus, "validation")
    assert sorted(train + held) == sorted(path.read_bytes() for path in folder.iterdir())
    assert train == [raw for path in sorted(folder.iterdir()) if (raw := path.read_bytes()) in train]
    for side in (corpus.train, corpus.validation):
        assert (side.ids == corpus.tokenizer.end).sum() == len(side.documents) - 1
        assert (side.ids[side.documents[1:] - 1] == corpus.tokenizer.end).all()
        assert side.raw == side.bytes_at(np.arange(len(side))).sum()
    assert corpus.train.raw == len(b"".join(train)) and corpus.validation.raw == len(b"".join(held))


def test_the_split_belongs_to_the_documents(folder: Path, tmp_path: Path) -> None:
    before = texts(prepare_corpus(str(folder), validation=0.2, cache=tmp_path), "validation")
    for number in range(60):
        (folder / f"a{number}.txt").write_text(f"another {number}")
    after = texts(prepare_corpus(str(folder), validation=0.2, cache=tmp_path), "validation")
    assert set(before) <= set(after) and len(before) < len(after)


def test_the_split_has_the_share_asked_for() -> None:
    hashes = np.array([document_hash(b"%d" % number) for number in range(20_000)], np.uint64)
    for fraction in (0.02, 0.5, 0.9):
        deviation = (fraction * (1 - fraction) / len(hashes)) ** 0.5
        assert abs(held_out_pieces(hashes, fraction).mean() - fraction) < 4 * deviation
    for number in range(2, 30):
        for fraction in (1e-12, 1 - 1e-12):
            assert (
                held_out_pieces(hashes[:number], fraction).any()
                and not held_out_pieces(hashes[:number], fraction).all()
            )
    assert held_out_pieces(hashes[[0, 1, 0]], 0.5).tolist() in (
        [True, False, True],
        [False, True, False],
    )  # copies together


def test_one_document_is_cut_at_a_line_end(tmp_path: Path) -> None:
    lines = "".join(f"line {number}\n" for number in range(100))
    (tmp_path / "one.txt").write_text(lines)
    corpus = prepare_corpus(str(tmp_path / "one.txt"), validation=0.1, cache=tmp_path / "cache")
    (train,), (held,) = texts(corpus, "train"), texts(corpus, "validation")
    assert corpus.one and "held out its end" in str(corpus)
    assert train + held == lines.encode() and train.endswith(b"\n")
    assert abs(len(held) - 0.1 * len(lines)) < 10


@pytest.mark.parametrize("raw", [b"ab", b"a\n", b"\nb", "éé".encode(), "a😀".encode(), "😀a".encode(), b"x" * 99])
@pytest.mark.parametrize("fraction", [1e-9, 0.02, 0.5, 0.999])
def test_a_cut_leaves_text_on_both_sides(raw: bytes, fraction: float) -> None:
    place = cut_place(raw, fraction)
    assert raw[:place].decode() and raw[place:].decode()


def test_too_little_text(tmp_path: Path) -> None:
    for text, message in (("", "corpus is empty"), ("é", "a single character")):
        (tmp_path / "a.txt").write_text(text)
        with pytest.raises(UserError, match=message):
            prepare_corpus(str(tmp_path / "a.txt"), cache=tmp_path / "cache")
    for fraction in (1.1, -0.1, float("nan")):
        with pytest.raises(UserError, match=r"data\.validation"):
            prepare_corpus(str(tmp_path / "a.txt"), validation=fraction, cache=tmp_path / "cache")


def test_an_unchanged_corpus_is_not_read_again(folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    one = prepare_corpus(str(folder), cache=tmp_path, progress=lambda what, *_: said.append(what))
    assert {"reading", "tokenizing"} <= set(said)
    said.clear()
    two = prepare_corpus(str(folder), cache=tmp_path, progress=lambda what, *_: said.append(what))
    assert not said and two.digest == one.digest
    for path in folder.iterdir():
        path.touch()
    three = prepare_corpus(str(folder), cache=tmp_path, progress=lambda what, *_: said.append(what))
    assert set(said) == {"reading"} and three.digest == one.digest
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert prepare_corpus(str(moved), cache=tmp_path).digest == one.digest
    assert len(list((tmp_path / "corpora").glob(f"*/{MANIFEST}"))) == 1


def test_a_changed_corpus_has_another_digest_and_leaves_the_old_one_alone(folder: Path, tmp_path: Path) -> None:
    one = prepare_corpus(str(folder), cache=tmp_path)
    before = one.train.ids.copy()
    path = folder / "07.txt"
    path.write_text(path.read_text()[::-1])  # the same size
    two = prepare_corpus(str(folder), cache=tmp_path)
    assert one.digest != two.digest
    np.testing.assert_array_equal(one.train.ids, before)
    others = [(name, share) for name in ("bytes", "train(300)") for share in (0.1, 0.3)]
    digests = {prepare_corpus(str(folder), name, validation=share, cache=tmp_path).digest for name, share in others}
    assert len(digests) == 4 and two.digest not in digests


def test_a_corpus_that_changes_while_it_is_read_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="changed while it was read"):
        prepare_corpus(str(folder), cache=tmp_path, progress=lambda *_: (folder / "00.txt").write_text("late"))
    assert not list((tmp_path / "corpora").glob("*.part"))


def test_a_damaged_cache_is_built_again(folder: Path, tmp_path: Path) -> None:
    one = prepare_corpus(str(folder), cache=tmp_path)
    text = texts(one, "train")
    (found,) = (tmp_path / "corpora").glob(f"*/{MANIFEST}")
    for name in ("train.documents", MANIFEST):
        path = found.parent / name
        path.write_bytes(path.read_bytes()[:-1])
        again = prepare_corpus(str(folder), cache=tmp_path)
        assert again.digest == one.digest and texts(again, "train") == text


def test_the_cache_can_be_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDKIT_CACHE", str(tmp_path / "mine"))
    prepare_corpus(str(folder))
    assert (tmp_path / "mine" / "corpora").is_dir()
    monkeypatch.delenv("HYBRIDKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    prepare_corpus(str(folder))
    assert (tmp_path / "xdg" / "hybridkit" / "corpora").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cache .*HYBRIDKIT_CACHE can name another"):
        prepare_corpus(str(folder), cache=tmp_path / "file")


@pytest.mark.slow
def test_two_processes_build_once(folder: Path, tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from hybridkit.data.corpus import prepare_corpus
said = set()
def slow(what, done, total):
    said.add(what)
    time.sleep(0.01)
print(prepare_corpus(sys.argv[1], "train(300)", cache=Path(sys.argv[2]), progress=slow).digest, len(said))
"""
    running = [python(code, folder, tmp_path) for _ in range(3)]
    results = [process.communicate(timeout=60) for process in running]
    assert [error for _, error in results] == [""] * 3
    digests, phases = zip(*(out.split() for out, _ in results), strict=True)
    assert len(set(digests)) == 1 and sorted(phases) == ["0", "0", "3"]


KILLED = """
import os, signal, sys
from pathlib import Path
from hybridkit.data.corpus import prepare_corpus
from hybridkit.data import cache

def build(left):
    def moment(*_):
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    def watched(call):
        def watching(*arguments):
            moment()
            result = call(*arguments)
            moment()
            return result
        return watching
    cache._fsync, Path.rename, Path.replace = map(watched, (cache._fsync, Path.rename, Path.replace))
    prepare_corpus(sys.argv[1], cache=Path(sys.argv[2], str(left)), progress=moment)

for left in map(int, sys.argv[3:]):
    child = os.fork()
    if child == 0:
        build(left)
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_is_whole_or_absent(tmp_path: Path) -> None:
    """Killed before and after every fsync and rename, and after every document read and tokenized."""
    (tmp_path / "text").mkdir()
    for number in range(3):
        (tmp_path / "text" / f"{number}.txt").write_text(f"document {number}\n" * 50)
    whole = prepare_corpus(str(tmp_path / "text"), cache=tmp_path)
    out, error = python(KILLED, tmp_path / "text", tmp_path / "killed", *range(60)).communicate(timeout=120)
    killed = [status == "9" for status in out.split()]
    assert killed == sorted(killed, reverse=True) and 20 < sum(killed) < 60, error  # the last ones came through
    for moment in range(60):
        again = prepare_corpus(str(tmp_path / "text"), cache=tmp_path / "killed" / str(moment))
        assert again.digest == whole.digest and texts(again, "train") == texts(whole, "train")


def test_what_a_killed_build_left_is_swept_by_another_corpus(folder: Path, tmp_path: Path) -> None:
    python(KILLED, folder, tmp_path, 30).communicate(timeout=60)
    (left,) = (tmp_path / "30" / "corpora").glob("*.part")
    (tmp_path / "other.txt").write_text("other\ntext\n")
    prepare_corpus(str(tmp_path / "other.txt"), cache=tmp_path / "30")
    assert not left.exists()


def test_a_build_at_work_is_not_swept(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("other\ntext\n")
    begun, go_on, results = threading.Event(), threading.Event(), []

    def wait(*_: object) -> None:
        begun.set()
        go_on.wait(30)

    thread = threading.Thread(target=lambda: results.append(prepare_corpus(str(folder), cache=tmp_path, progress=wait)))
    thread.start()
    assert begun.wait(30)
    prepare_corpus(str(tmp_path / "other.txt"), cache=tmp_path)
    go_on.set()
    thread.join()
    assert len(results) == 1 and len(texts(results[0], "train")) > 30
    assert not list((tmp_path / "corpora").glob("*.part"))


def test_a_ready_corpus_opens_from_a_folder_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    one = prepare_corpus(str(folder), cache=tmp_path / "cache")
    for path in [tmp_path / "cache" / "corpora", *(tmp_path / "cache" / "corpora").rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path: path.stat().st_ctime_ns for path in (tmp_path / "cache").rglob("*")}
    assert prepare_corpus(str(folder), cache=tmp_path / "cache").digest == one.digest
    assert {path: path.stat().st_ctime_ns for path in (tmp_path / "cache").rglob("*")} == before
    for path in [tmp_path / "cache" / "corpora", *(tmp_path / "cache" / "corpora").rglob("*/")]:
        path.chmod(0o755)


def test_a_full_disk_is_one_clear_message(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("hybridkit.data.cache._fsync", full)
    with pytest.raises(UserError, match=r"cache .*No space left on device"):
        prepare_corpus(str(folder), cache=tmp_path)
    monkeypatch.undo()
    assert not list((tmp_path / "corpora").glob("*.part"))
    assert len(prepare_corpus(str(folder), cache=tmp_path).train)


def test_import_and_prepare_need_no_torch(folder: Path, tmp_path: Path) -> None:
    code = "import sys; from hybridkit.data import corpus; print('torch' in sys.modules)"
    out, error = python(code).communicate(timeout=60)
    assert (out.strip(), error) == ("False", "")
