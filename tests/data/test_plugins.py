"""The source and the tokenizer of CONTRIBUTING.md, from a folder outside: their runs, copies and hashes."""

import json
from pathlib import Path

import pytest
from examples import EXAMPLES
from plugins import new_process
from typer.testing import CliRunner

import hybridkit
from hybridkit.cli import verbs
from hybridkit.data.source import SOURCE, open_source
from hybridkit.data.tokenizer import TOKENIZER
from hybridkit.data.tokenizer_choice import choose_tokenizer, load_tokenizer
from hybridkit.registry.plugin_package import sha256
from hybridkit.registry.registry import REGISTRY
from hybridkit.runs.run import Run
from hybridkit.system.errors import UserError

RECIPE = """\
pattern: [swa:8, mlstm]
model: {width: 16, heads: 2}
data: {source: numbers(30), tokenizer: letters(3), sequence: 32, validation: .2}
train: {steps: 2, batch_tokens: 64, precision: fp32, device: cpu}
"""


@pytest.fixture
def folder(no_plugins: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("numbers", "letters"):
        (tmp_path / f"{name}.py").write_text(EXAMPLES[name])
    (tmp_path / "r.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYBRIDKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path


def call(*words: str, plugins: str) -> str:
    named = [word for name in plugins.split() for word in ("--plugin", f"{name}.py")]
    done = CliRunner().invoke(verbs(), [*words, *named], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.slow
def test_a_tokenizer_from_outside_is_that_of_its_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call("train", "r.yaml", "--run", "run", plugins="numbers letters")
    said = json.loads((folder / "run/tokenizer.json").read_text())
    assert said["hybridkit"] == "letters(shift=3)" and "letters.py" in said["code"]
    new_process(monkeypatch)
    found = json.loads(call("eval", "run", "--json", plugins=""))
    row = found["perplexity"]["run"][0]
    assert row["same_text"] and row["tokens"] > 0 and row["bits_per_byte"]
    tokenizer = hybridkit.load("run").tokenizer
    ids = tokenizer.encode(b"abc")
    assert ids.tolist() == [94, 95, 96] and tokenizer.decode(ids) == b"abc"
    with pytest.raises(UserError, match=r"letters\(shift=3\) is not here; name the plug-in's file with --plugin"):
        load_tokenizer(folder / "run")  # as a mere folder


@pytest.mark.slow
def test_a_run_is_resumed_with_its_own_source_and_tokenizer_or_not_at_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("train", "r.yaml", "--run", "run", plugins="numbers letters")
    record = Run("run").record()
    names = {"numbers.py", "letters.py"}
    assert record and set(record.code or ()) == names == {path.name for path in Path("run/plugins").iterdir()}
    again = ("--run", "run", "--resume")
    for name in sorted(names):
        original = Path(name).read_text()
        Path(name).write_text(original + "# changed\n")
        new_process(monkeypatch)
        with pytest.raises(UserError) as raised:
            call("train", "r.yaml", "train.steps=3", *again, plugins="numbers letters")
        assert all(sha256(text.encode()) in str(raised.value) for text in (original, original + "# changed\n"))
        Path(name).write_text(original)
    for name in names:
        Path(name).unlink()
    new_process(monkeypatch)
    call("train", "run/recipe.yaml", "train.steps=3", *again, plugins="")
    assert next(Run("run").checkpoints()).step == 3


def test_changed_code_of_a_tokenizer_is_another_tokenizer(folder: Path) -> None:
    REGISTRY.add(folder / "letters.py")
    one = choose_tokenizer("letters").identity()
    REGISTRY.clear()
    (folder / "other").mkdir()
    (folder / "other/letters.py").write_text(EXAMPLES["letters"] + "# changed\n")
    REGISTRY.add(folder / "other/letters.py")
    assert choose_tokenizer("letters").identity() != one


def test_what_is_built_in_is_found_by_file() -> None:
    assert REGISTRY.names(SOURCE) == ["files", "hf", "recall", "stdlib"]
    assert REGISTRY.names(TOKENIZER) == ["bytes", "file", "train"]


def test_a_path_may_begin_with_a_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdlib.txt", "recall.txt", "files", "hf"):
        (folder / name).write_text("text")
        assert str(open_source(name)) != name and open_source(name) == open_source(name)
