"""What a data folder may hold beside text: nothing blocks, nothing structured is taken for text, all is said."""

import gzip
import json
import os
import socket
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from hybridkit.data import readers as files
from hybridkit.data.corpus import prepare_corpus
from hybridkit.data.source import open_source, open_text
from hybridkit.data.tokenizers import _json_file as tokenizer_json
from hybridkit.data.tokenizers._bpe import read_tokenizer, train_bpe
from hybridkit.system.errors import UserError

ROWS = [{"text": "eins"}, {"text": ""}, {"text": 'zwei,\n"drei"'}]
FOUND = [b"eins", b'zwei,\n"drei"']


def documents(source: object, field: str = "text") -> list[bytes]:
    return list(open_text(str(source)).documents(field, Counter()))


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder of one text and of all that would block, loop or be no text."""
    folder = tmp_path / "odd"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "a.txt").write_text("text")
    os.mkfifo(folder / "pipe.txt")
    os.mkfifo(folder / "below" / "pipe.jsonl")
    (folder / "link.txt").symlink_to(folder / "pipe.txt")
    (folder / "zero.txt").symlink_to("/dev/zero")
    (folder / "round.txt").symlink_to(folder / "round.txt")
    (folder / "gone.txt").symlink_to(folder / "nowhere")
    (folder / "below" / "up").symlink_to(folder)
    (folder / "below" / "top").symlink_to(folder)
    (folder / "b.bin").write_bytes(b"\x7fELF\0")
    (folder / "latin.txt").write_bytes("größe".encode("latin-1"))
    (folder / "empty.txt").touch()
    here = os.getcwd()
    os.chdir(folder)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket.txt")
    os.chdir(here)
    return folder


@pytest.mark.parametrize("pattern", ["", "**/*", "**"])
def test_what_is_no_file_is_left_out_and_counted(odd: Path, pattern: str) -> None:
    source, skipped = open_text(str(odd / pattern)), Counter[str]()
    assert list(source.documents("text", skipped)) == [b"text"] == list(source.documents("text", Counter()))
    assert skipped == {
        "pipes, sockets or devices": 5, "links that lead nowhere": 2, "links to folders": 2, "not UTF-8 text": 2,
        "empty": 1,
    }  # fmt: skip


def test_what_was_left_out_is_kept_with_the_corpus(odd: Path, tmp_path: Path) -> None:
    corpora = [prepare_corpus(str(odd), validation=0.5, cache=tmp_path / "cache") for _ in range(2)]
    assert corpora[0].skipped == corpora[1].skipped and corpora[0].skipped["pipes, sockets or devices"] == 5


@pytest.mark.parametrize("name", ["pipe.txt", "link.txt", "zero.txt", "round.txt", "gone.txt", "socket.txt", "*.sock*"])
def test_named_itself_it_is_refused(odd: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"neither a file nor a folder|no file, folder or glob"):
        open_source(str(odd / name))
    with pytest.raises(UserError, match="is not bytes, train"):
        prepare_corpus("stdlib", str(odd / name))


def test_a_file_that_became_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    for path in (tmp_path / "a.txt", Path("/dev/zero")):
        with pytest.raises(UserError, match=r"cannot read .*: not a regular file"):
            list(files.read_documents(path, "text"))


@pytest.mark.parametrize(
    ("name", "content"),
    {
        "a.json": json.dumps(ROWS),
        "b.JSON": json.dumps(ROWS, indent=2),
        "c.ndjson": "\n".join(map(json.dumps, ROWS)),
        "d.json": "\n".join(map(json.dumps, ROWS)),  # lines, as many files of this name hold
        "e.csv": 'id,text\n1,eins\n2,\n3,"zwei,\n""drei"""\n',
        "g.csv": '\ufefftext,id\neins,1\n,2\n"zwei,\n""drei""",3\n',  # as spreadsheets write it
        "f.tsv": 'id\ttext\n1\teins\n2\t\n3\t"zwei,\n""drei"""\n',
    }.items(),
)
def test_structured_files_are_read_as_rows(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
    assert documents(tmp_path / name) == documents(tmp_path / f"{name}.gz") == FOUND
    with pytest.raises(UserError, match=rf"{name}.*no field 'body' \(data\.field\)"):
        documents(tmp_path / name, "body")


def test_one_object_is_one_row_and_packed_text_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"text": "eins"}')
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"zwei"))
    assert documents(tmp_path / "a.json") == [b"eins"] and documents(tmp_path / "b.txt.gz") == [b"zwei"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'{"name": "package", "version": 1}', r"a\.json: no field 'text' .* among name, version"),
        ("a.json", b'["eins"]', r"a\.json, row 1: a row is an object"),
        ("a.json", b"3", r"a\.json: a row is an object .* not int"),
        ("a.json", b"[" * 100_000, r"a\.json: not JSON"),
        ("a.json", b"", r"a\.json: not JSON"),
        ("a.json", b"\xff\xfe", r"a\.json: not JSON"),
        ("a.json", b"1" * 5000, r"a\.json: not JSON"),
        ("a.csv", b"", r"^$"),
        ("a.csv", b"text\n\xff\n", r"a\.csv: not UTF-8"),
        ("a.csv", b'text\n"never closed\n', r"a\.csv: not a table"),
        ("a.tsv", b"id\n1\n", r"a\.tsv, row 1: no field 'text'"),
        ("a.csv", b"id,text\n1,eins\n2,zwei, drei\n", r"a\.csv, row 2: 3 cells, and the head has 2; quote the text"),
        ("a.tsv", b"text\nzwei\tdrei\n", r"a\.tsv, row 1: 2 cells, and the head has 1; quote .* holds '\\t'"),
    ],
    ids=lambda value: None if isinstance(value, str) else "content",
)
def test_others_are_one_message(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    if message == "^$":
        assert documents(tmp_path / name) == []
        return
    with pytest.raises(UserError, match=message):
        documents(tmp_path / name)


def test_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_ROW", 1000)
    (tmp_path / "a.json").write_text(json.dumps([{"text": "x" * 2000}]))
    with pytest.raises(UserError, match=r"a\.json: more than .* in one JSON value; give each row its own line"):
        documents(tmp_path / "a.json")
    for name in ("a.txt.gz", "a.json.gz", "a.csv.gz"):
        (tmp_path / name).write_bytes(gzip.compress(bytes(10**6)))
        with pytest.raises(UserError, match="unpacks to more than"):
            documents(tmp_path / name)
    with (tmp_path / "huge.txt").open("wb") as file:
        file.truncate(1 << 42)
    with pytest.raises(UserError, match=r"huge\.txt: binary data \(byte 0 is NUL\)"):
        documents(tmp_path / "huge.txt")
    monkeypatch.setattr(files, "_whole", _no_memory)
    with pytest.raises(UserError, match=r"a\.txt\.gz is too large to be held in memory"):
        documents(tmp_path / "a.txt.gz")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv.gz"])
def test_a_table_that_is_not_text_is_left_out_as_a_whole(tmp_path: Path, name: str) -> None:
    raw = b"text\n" + b"a good row\n" * 2000 + "größe\n".encode("latin-1")
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    (tmp_path / "b.txt").write_text("text")
    skipped = Counter[str]()
    assert list(open_text(str(tmp_path)).documents("text", skipped)) == [b"text"] and skipped == {"not UTF-8 text": 1}
    with pytest.raises(UserError, match=rf"{name}: not UTF-8 text \(byte {len(raw) - 4}\)"):
        documents(tmp_path / name)


def test_a_field_of_a_table_may_be_long(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f'text\n"{"x" * 200_000}"\n')
    assert documents(tmp_path / "a.csv") == [b"x" * 200_000]


def test_what_may_not_be_looked_at_is_no_dead_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a folder that may be listed, but not entered."""
    (tmp_path / "shut.txt").touch()
    stat = os.stat

    def refused(path: Any, **how: Any) -> os.stat_result:
        if str(path).endswith("shut.txt"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **how)

    monkeypatch.setattr(os, "stat", refused)
    with pytest.raises(UserError, match=r"holds no files \(1 that cannot be read: Permission denied\)"):
        open_source(str(tmp_path))
    with pytest.raises(UserError, match=r"cannot read .*shut\.txt: Permission denied"):
        open_source(str(tmp_path / "shut.txt"))


def _no_memory(path: Path) -> bytes:
    raise MemoryError


@pytest.mark.parametrize("when", ["import", "open", "read"])
@pytest.mark.parametrize("error", [RuntimeError("scripts are\nnot supported"), KeyError("x"), OSError(), TypeError()])
def test_whatever_datasets_raises_is_one_message(monkeypatch: pytest.MonkeyPatch, when: str, error: Exception) -> None:
    class Library(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if when == "import":
                raise error
            return load_dataset

    def load_dataset(*_: object, **__: object) -> Any:
        if when == "open":
            raise error
        return rows()

    def rows() -> Any:
        yield {"text": "one"}
        raise error

    monkeypatch.setitem(sys.modules, "datasets", Library("datasets"))
    with pytest.raises(UserError, match=r"^data\.source: cannot read hf:owner/name: \S.*$"):
        documents("hf:owner/name")


def test_a_tokenizer_file_is_checked_before_memory_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = json.loads(train_bpe([b"some text"], 300).library.to_str())
    path = tmp_path / "tokenizer.json"

    def refused(message: str) -> None:
        path.write_text(json.dumps(made))
        with monkeypatch.context() as patched:
            patched.setattr(
                "tokenizers.Tokenizer.from_str", lambda _: pytest.fail("the library was asked"), raising=False
            )
            with pytest.raises(UserError, match=message):
                read_tokenizer(path)

    vocab = made["model"]["vocab"]
    last = max(vocab, key=vocab.get)
    for huge in (2**32 - 1, 10**8, 10_000, 2**70, 1.5, "7", True, None):
        made["model"]["vocab"] = vocab | {last: huge}
        refused("the largest id is|not a whole number")
    made["model"]["vocab"] = vocab
    made["added_tokens"].append(dict(made["added_tokens"][0], id=10**9, content="<far>"))
    refused("the largest id is 1000000000")
    del made["added_tokens"][-1]
    path.write_text(json.dumps(made))
    read_tokenizer(path)
    monkeypatch.setattr(tokenizer_json, "MAX_FILE", 1000)
    refused("not a tokenizer.json: it has more than")


def test_what_the_library_cannot_encode_is_one_message(tmp_path: Path) -> None:
    model = {"type": "WordLevel", "vocab": {"the": 0}, "unk_token": "[UNK]"}  # which is not there
    (tmp_path / "t.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    with pytest.raises(UserError, match=r"data\.tokenizer: the tokenizer cannot encode the text: .*UNK"):
        read_tokenizer(tmp_path / "t.json").encode(b"another")


def test_without_a_network_the_hub_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = SimpleNamespace(HF_HUB_OFFLINE=False)
    asked = []

    def load_dataset(*_: object, **__: object) -> Any:
        asked.append(config.HF_HUB_OFFLINE)  # its library would retry for half a minute
        raise ConnectionError("reason")

    library = ModuleType("datasets")
    library.load_dataset, library.config = load_dataset, config  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", library)
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", SimpleNamespace(HF_HUB_OFFLINE=False))
    for found, said in ((False, "has no address here"), (True, "reason")):
        monkeypatch.setattr("hybridkit.system.network._has_address", lambda url, found=found: found)
        with pytest.raises(UserError, match=said):
            documents("hf:owner/name")
    with pytest.raises(UserError, match="reason"):
        documents(f"hf:{tmp_path}")
    assert asked[:2] == [True, False] and not config.HF_HUB_OFFLINE
