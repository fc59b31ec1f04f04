"""Recipes and corpora that mean harm: refused in words, with nothing executed and little held in memory."""

import gzip
import json
import os
from pathlib import Path

import pytest
from told import Go

from hybridkit.cli import main
from hybridkit.runs.run import load_recipe
from hybridkit.system.errors import UserError


@pytest.mark.slow
def test_text_that_unpacks_without_end_is_refused(tmp_path: Path, go: Go) -> None:
    path = tmp_path / "bomb.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=9) as file:
        line = json.dumps({"text": "a" * (1 << 20)}).encode() + b"\n"
        for _ in range(300):
            file.write(line)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(UserError, match=r"bomb\.jsonl\.gz:2\d\d: .*more than 200 times its size"):
        go(tmp_path / "run", f"data.source={path}")
    assert not (tmp_path / "run").exists(), "what could not begin leaves nothing"


def test_a_row_without_end_is_refused(tmp_path: Path, go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridkit.data.readers.MAX_ROW", 1000)
    (tmp_path / "long.jsonl").write_text('{"text": "short"}\n' + json.dumps({"text": "a" * 2000}))
    with pytest.raises(UserError, match=r"long\.jsonl:2: a row of more than"):
        go(tmp_path / "run", f"data.source={tmp_path / 'long.jsonl'}")


RECIPES = {
    "a tag": ("pattern: sa\ndata: {source: !!python/object/apply:os.system [touch MARK]}", "a tag"),
    "a tag of a pattern": ("pattern: !!python/name:os.system sa", "r.yaml:1"),
    "aliases": ("a: &a [x, x]\nb: &b [*a, *a]\npattern: sa", "an anchor"),
    "extends a device": ("extends: /dev/zero", "not a regular file"),
    "extends a pipe": ("extends: pipe", "not a regular file"),
    "extends another's file": ("extends: /etc/passwd", "/etc/passwd:1"),
    "a path as a block": ("pattern: ../../evil", "expected"),
    "a module as a block": ("pattern: os.system", "expected"),
    "an unknown engine": ("pattern: sa\ntrain: {engine: os.system}", "train.engine should name an engine"),
    "windows without end": ("pattern: swa:uniform(1,1099511627776)", "choose a larger step"),
    "a width without end": ("pattern: ffn(width=9999999999999999999)", "should be at most"),
    "rows without end": ("pattern: sa\ntrain: {micro_batch: " + "9" * 26 + "}", "train.micro_batch should be"),
    "weights without end": ("pattern: swa(heads=1048576,head=1099511627776):4", "fit into no machine"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_that_mean_harm_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hybridkit.model.loading import plan

    (text, said), mark = RECIPES[name], tmp_path / "executed"
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("evil.py").write_text(f"open({str(mark)!r}, 'w')")
    Path("r.yaml").write_text(text.replace("MARK", str(mark)))
    with pytest.raises(UserError, match=said):
        plan(load_recipe("r.yaml"))
    assert not mark.exists()


@pytest.mark.parametrize(("precision", "head"), [("fp32", 1 << 21), ("bf16", 1 << 22)])
def test_sizes_beyond_the_machine_are_a_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], precision: str, head: int
) -> None:
    """Of keys of 2**63 bytes, which take twice the head in bf16."""
    pattern = f"pattern=sa(heads=1048576,head={head})"
    words = ["quickstart", pattern, f"train.precision={precision}", "--json"]
    monkeypatch.setattr("sys.argv", ["hybridkit", "flops", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "not enough memory for sizes like these" in capsys.readouterr().err
