"""Sources: what is read, in which order, and every way in which it can be wrong."""

import glob
import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from hybridkit.data.source import open_source, open_text
from hybridkit.data.sources._glob import files_of
from hybridkit.data.sources.stdlib import Stdlib
from hybridkit.system.errors import MissingExtra, UserError


def documents(source: object, field: str = "text") -> list[bytes]:
    return list(open_text(str(source)).documents(field, Counter()))


def test_stdlib_is_the_interpreters_own_text() -> None:
    source = Stdlib()
    names = [path.name for path in source.paths()]
    found = list(source.documents("text", Counter()))
    assert {"json", "asyncio"} <= {path.parent.name for path in source.paths()}
    assert "argparse.py" in names and not any(
        path.parts[-2] in ("test", "tests", "idle_test") for path in source.paths()
    )
    assert not any("site-packages" in path.parts for path in source.paths())
    assert sum(map(len, found)) > 8e6 and len(found) > 400
    assert list(source.documents("text", Counter())) == found
    assert Path(json.__file__).read_bytes() in found


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name, text in {"z.txt": "last", "a.md": "first\r\n", "b/x.txt": "träge", ".hidden": "no", "empty": ""}.items():
        (tmp_path / name).write_bytes(text.encode())
    assert documents(tmp_path) == [b"first\r\n", "träge".encode(), b"last"]
    assert documents(tmp_path / "*.txt") == [b"last"]
    assert documents(tmp_path / "**" / "*.txt") == ["träge".encode(), b"last"]
    assert documents(tmp_path / "z.txt") == [b"last"]


GLOBS = [
    "**/a?b",
    "**/a[!z]b",
    "**/*.txt",
    "**",
    "**/*",
    "*/**/b",
    "**/b/**",
    "**/**/b",
    "a**",
    "**/c[[]1]",
    "**/[.*]b",
]
GLOBS += ["**/.h/*", "**/.*", "**/.h/**", "**/[.]h", "a/**/b", "?/**", "**/[*]b"]


@pytest.mark.parametrize("pattern", GLOBS)
def test_a_glob_finds_what_pythons_own_finds(tmp_path: Path, pattern: str) -> None:
    for name in ("a/b", "a?b", "axb", "a.txt", "d/a/x/b", "d/a/b", "d/a.b", "d/b/c[1]", "d/*b", ".h/a", "d/.h/e/b"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = {Path(path) for path in glob.glob(str(tmp_path / pattern), recursive=True) if os.path.isfile(path)}
    assert list(files_of(str(tmp_path / pattern), Counter())) == sorted(found)


def test_rows_are_documents(tmp_path: Path) -> None:
    rows = [{"id": 1, "body": "one"}, {"body": ""}, {"body": "zwölf"}, {"body": "half \ud800 pair"}]
    lines = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    expected = [b"one", "zwölf".encode(), b"half ? pair"]
    assert documents(tmp_path / "a.jsonl", "body") == expected
    assert documents(tmp_path / "b.jsonl.gz", "body") == expected
    assert documents(tmp_path, "body") == expected * 2


def test_parquet_rows_are_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"n": [1, 2], "text": ["eins", "zwei"]}), path)
    assert documents(path) == [b"eins", b"zwei"]
    with pytest.raises(UserError, match=r"a\.parquet: no field 'texts' .* among n, text; did you mean `text`"):
        documents(path, "texts")
    with pytest.raises(UserError, match=r"row 1: field 'n' holds int, not text"):
        documents(path, "n")
    torn = pyarrow.array([b"ok", "größe".encode("latin-1")], pyarrow.binary()).cast(pyarrow.string(), safe=False)
    parquet.write_table(pyarrow.table({"text": torn}), path)
    with pytest.raises(UserError, match=r"a\.parquet, row 2: field 'text' holds text that is not UTF-8"):
        documents(path)
    path.write_bytes(b"PAR1 but cut off")
    with pytest.raises(UserError, match="not a Parquet file"):
        documents(path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"pyarrow.*hybridkit\[hf\]"):
        documents(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a\.jsonl:2: not a line of JSON"),
        ("a.jsonl", b'{"text": "x"}\n\n{"txt": "y"}', r"a\.jsonl:3: no field 'text' .* did you mean `txt`"),
        ("a.jsonl", b'["text"]', r"a\.jsonl:1: a row is an object .* not list"),
        ("a.jsonl", b'{"text": null}', r"a\.jsonl:1: field 'text' holds NoneType"),
        ("a.jsonl", b'{"text": "\xff"}', r"a\.jsonl:1: not a line of JSON"),
        ("a.jsonl", b'{"text": ' + b"[" * 100_000, r"a\.jsonl:1: not a line of JSON"),
        ("a.jsonl.gz", b"plain text", "cannot read .*a.jsonl.gz: Not a gzipped file"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 999, mtime=0)[:-20], "cannot read .*a.jsonl.gz: .*ended"),
        ("a.jsonl.gz", gzip.compress(bytes(99), mtime=0)[:10] + b"\xff" * 30, "cannot read .*a.jsonl.gz: "),
        ("a.txt", b"fine until \xff here", r"a\.txt: not UTF-8 text \(byte 11\)"),
        ("a.bin", b"ELF\0\1\2", r"a\.bin: binary data \(byte 3 is NUL\)"),
    ],
    # names of their own: bytes in a test's name differ between the processes of one run if they hold a time
    ids=[
        "broken-line",
        "field-missing",
        "row-is-a-list",
        "field-is-null",
        "line-not-utf-8",
        "nested-too-deep",
        "not-gzip",
        "gzip-cut",
        "gzip-damaged",
        "not-utf-8",
        "binary",
    ],
)
def test_bad_files_are_named_with_the_place(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        documents(tmp_path / name)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file, folder or glob 'stdlb'.*did you mean `stdlib`"):
        open_source("stdlb")
    for text in ("", "a" * 5000, "a\0b", "a\0b/*", "~nobody/x", "[", str(tmp_path / "*.txt")):
        with pytest.raises(UserError, match="no file, folder or glob") as caught:
            open_source(text)
        assert len(str(caught.value)) < 400
    with pytest.raises(UserError, match="holds no files"):
        open_source(str(tmp_path))
    with pytest.raises(UserError, match="neither a file nor a folder"):
        open_source("/dev/zero")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no files \(1 links that lead nowhere\)"):
        open_source(str(tmp_path))


def test_a_fingerprint_changes_with_the_files(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    stamp = path.stat()
    prints = [open_text(str(tmp_path)).fingerprint("text")]
    path.write_text("two")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # same size, and the old time set back
    prints.append(open_text(str(tmp_path)).fingerprint("text"))
    (tmp_path / "b.txt").write_text("more")
    prints.append(open_text(str(tmp_path)).fingerprint("text"))
    assert len({json.dumps(one) for one in prints}) == 3


@pytest.mark.slow
def test_the_datasets_library_reads_a_folder_of_its_own(tmp_path: Path) -> None:
    if find_spec("datasets") is None:
        pytest.skip("needs datasets, of the hf extra")
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "train.jsonl").write_text('{"text": "a"}\n{"text": ""}\n{"text": "c"}\n{"text": "d"}\n')
    code = (
        "import sys; from collections import Counter; from hybridkit.data.source import open_text;"
        " print(list(open_text(sys.argv[1]).documents('text', Counter())))"
    )
    offline = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    spec = f"hf:{tmp_path / 'rows'}:train[:3]"
    run = subprocess.run([sys.executable, "-c", code, spec], capture_output=True, text=True, env=offline, check=False)
    assert run.stdout.strip() == "[b'a', b'c']", run.stderr


def test_a_hub_dataset_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(name: str, config: str | None, **named: object) -> list[dict[str, str]]:
        asked.append((name, config, named["split"], named["revision"], named["streaming"]))
        if name == "no/such":
            raise FileNotFoundError("no dataset of that name")
        return [{"text": f"{n}"} for n in range(5)]

    library = ModuleType("datasets")
    library.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", library)
    assert documents("hf:owner/name") == [b"0", b"1", b"2", b"3", b"4"]
    assert documents("hf:owner/name@v1:validation[:2]:sample-10BT") == [b"0", b"1"]
    assert asked == [
        ("owner/name", None, "train", None, True),
        ("owner/name", "sample-10BT", "validation", "v1", True),
    ]
    with pytest.raises(UserError, match="row 1: no field 'body'"):
        documents("hf:owner/name", "body")
    with pytest.raises(UserError, match="cannot read hf:no/such: no dataset"):
        documents("hf:no/such")
    for spec in ("hf:", "hf:a:b:c:d", "hf:a:train[2:3]", "hf:a:[:2]"):
        with pytest.raises(UserError, match="is not hf:NAME"):
            documents(spec)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"datasets.*hybridkit\[hf\]"):
        documents("hf:owner/name")
