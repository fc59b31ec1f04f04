"""A source, a tokenizer, an evaluation task and a sampler from one folder outside, each one file, used by the verbs."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from plugins import new_process
from spaces import try_all
from typer.testing import CliRunner

import hybridkit
from hybridkit.cli import app
from hybridkit.data.source import SOURCE, open_source
from hybridkit.data.tokenizer import TOKENIZER
from hybridkit.data.tokenizer_choice import choose_tokenizer, load_tokenizer
from hybridkit.registry.plugin_package import sha256
from hybridkit.registry.registry import REGISTRY
from hybridkit.runs.run import Run
from hybridkit.system.errors import UserError

FILES = {
    "counting": '''
from hybridkit.data.source import TextSource

class Counting(TextSource):
    """Documents that count."""

    documents_wanted: int = 40

    def documents(self, field, skipped):
        yield from (" ".join(map(str, range(n, n + 60))).encode() for n in range(self.documents_wanted))
''',
    "letters": '''
import numpy as np
from hybridkit.data.tokenizer import PieceTokenizer, TokenizerSpec

class Letters(TokenizerSpec):
    """A token a byte, in an order of its own."""

    shift: int = 1

    def vocab(self, rules=1):
        return 257

    def make(self, documents, rules=1):
        return _Shifted(self.shift)

class _Shifted(PieceTokenizer):
    def __init__(self, shift):
        self.shift = shift
        super().__init__([*(bytes([(n + shift) % 256]) for n in range(256)), b""], end=256)

    def encode(self, raw):
        return (np.frombuffer(raw, np.uint8).astype(np.int64) - self.shift) % 256
''',
    "parrot": '''
from hybridkit.evaluation.task import Prompt, Task

class Parrot(Task):
    """Which word stood at the beginning?"""

    def prompt(self, units, rng, essays):
        word = str(rng.randint(100, 999))
        return Prompt(f"{word} said the parrot. " + "and so on " * units, "It said", (word,), (0.0,))
''',
    "widest": '''
from hybridkit.search.sampler import Proposal, Sampler

class Widest(Sampler):
    """The last choice of every variable, then the one before, ..."""

    def count(self, goal):
        return 2

    def proposals(self, goal, trials, first):
        choices = list(goal.space.grid())[::-1]
        return (Proposal(number, params, {}) for number, params in enumerate(choices) if number >= first)
''',
}
RECIPE = """\
pattern: [swa:8, mlstm]
model: {width: 16, heads: 2}
data: {source: counting(30), tokenizer: letters(3), sequence: 32, validation: .2}
train: {steps: 2, batch_tokens: 64, precision: fp32, device: cpu}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, text in FILES.items():
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "r.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYBRIDKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    new_process(monkeypatch)
    yield tmp_path
    REGISTRY.clear()


def call(*words: str, plugins: str) -> str:
    named = [word for name in plugins.split() for word in ("--plugin", f"{name}.py")]
    done = CliRunner().invoke(app, [*words, *named], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.slow
def test_a_source_a_tokenizer_and_a_task_from_outside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run keeps copies of the source and the tokenizer: only the task is named again."""
    call("train", "r.yaml", "--run", "run", plugins="counting letters")
    said = json.loads((folder / "run/tokenizer.json").read_text())
    assert said["hybridkit"] == "letters(shift=3)" and "letters.py" in said["code"]
    words = ("eval", "run", "--needles", "parrot", "--lengths", "600", "--samples", "2", "--score", "forced", "--json")
    new_process(monkeypatch)
    found = json.loads(call(*words, plugins="parrot"))
    assert [(cell["task"], cell["samples"]) for cell in found["cells"]] == [("parrot (forced)", 2)]
    row = found["perplexity"]["run"][0]
    assert row["same_text"] and row["tokens"] > 0 and row["bits_per_byte"]
    tokenizer = hybridkit.load("run").tokenizer
    ids = tokenizer.encode(b"abc")
    assert ids.tolist() == [94, 95, 96] and tokenizer.decode(ids) == b"abc"
    with pytest.raises(UserError, match=r"letters\(shift=3\) is not here; name the plug-in's file with --plugin"):
        load_tokenizer(folder / "run")  # as a mere folder


def test_a_run_is_resumed_with_its_own_source_and_tokenizer_or_not_at_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("train", "r.yaml", "--run", "run", plugins="counting letters")
    record = Run("run").record()
    names = {"counting.py", "letters.py"}
    assert record and set(record.code or ()) == names == {path.name for path in Path("run/plugins").iterdir()}
    again = ("--run", "run", "--resume")
    for name in sorted(names):
        original = Path(name).read_text()
        Path(name).write_text(original + "# changed\n")
        new_process(monkeypatch)
        with pytest.raises(UserError) as raised:
            call("train", "r.yaml", "train.steps=3", *again, plugins="counting letters")
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
    (folder / "other/letters.py").write_text(FILES["letters"] + "# changed\n")
    REGISTRY.add(folder / "other/letters.py")
    assert choose_tokenizer("letters").identity() != one


@pytest.mark.slow
def test_a_sampler_from_outside(folder: Path) -> None:
    (folder / "s.yaml").write_text("extends: base.yaml\nspace:\n  model.width: [8, 16, 24]\nsampler: widest\n")
    (folder / "base.yaml").write_text(RECIPE.replace("counting(30)", "recall").replace("letters(3)", "bytes"))
    from hybridkit.search.definition import read_definition
    from hybridkit.search.study import create, proposals

    with pytest.raises(UserError, match=r"sampler should be 'evolution', 'grid', 'nsga2', 'random' or 'tpe'"):
        read_definition(folder / "s.yaml")
    REGISTRY.add("widest.py")
    definition = read_definition(folder / "s.yaml")
    assert [one.params["model.width"] for one in proposals(definition, [], 0)] == [24, 16, 8]
    trials = try_all(create(definition, folder / "study", None), lambda trial: trial.params["model.width"])
    assert [trial.params["model.width"] for trial in trials] == [24, 16]


def test_what_is_built_in_is_found_by_file() -> None:
    assert REGISTRY.names(SOURCE) == ["files", "hf", "recall", "stdlib"]
    assert REGISTRY.names(TOKENIZER) == ["bytes", "file", "train"]


def test_a_path_may_begin_with_a_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdlib.txt", "recall.txt", "files", "hf"):
        (folder / name).write_text("text")
        assert str(open_source(name)) != name and open_source(name) == open_source(name)
