"""One file of each kind that training uses, from a folder outside: a run trains and resumes with them."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from plugins import new_process

from hybridkit.cli import main
from hybridkit.registry.registry import REGISTRY
from hybridkit.runs.run import Run

FILES = {
    "decay": '''
from torch import nn
from hybridkit.block import Block, Layer

class _Decay(Layer):
    def __init__(self, width):
        super().__init__()
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x, state=None, *, window=None, document_starts=None):
        return self.out(x), ()

class Decay(Block):
    """A linear layer."""
    def build(self, dims): return _Decay(dims.width)
    def flops(self, dims, tokens, window=None, count="exact"): return 2 * dims.width**2 * tokens
''',
    "flip": '''
from hybridkit.block import Window

class Flip(Window):
    """One window at even steps, the other at odd ones."""
    even: int
    odd: int
    def __call__(self, step, index):
        return (self.odd if step.step % 2 else self.even) if step.training else self.largest
    @property
    def largest(self): return max(self.even, self.odd)
    def probabilities(self): return {self.even: .5, self.odd: .5}
''',
    "heavy": '''
from pydantic import Field
from hybridkit.training.optimizer import Optimizer

class Heavy(Optimizer):
    """Gradient descent with momentum."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    def build(self, groups, train):
        from torch.optim import SGD
        return SGD(groups, lr=train.lr, momentum=self.momentum)
''',
    "counting": '''
from pydantic import Field
from hybridkit.training.engine import EngineSpec

class Counting(EngineSpec):
    """The local engine, which counts its steps."""
    first: int = Field(default=0, ge=0, description="Where it begins to count.")

    def open(self, plan, train, optimizer):
        from hybridkit.training.engines.local.engine import LocalEngine
        class Counted(LocalEngine):
            count = self.first
            def gradients(self, *batch):
                self.count += 1
                return super().gradients(*batch)
            def metrics(self):
                return {"steps": self.count}
        return Counted(plan, train, optimizer)

    def manifest_entries(self):
        return {"counted_from": self.first}
''',
}
RECIPE = """\
pattern: [swa:flip(2,4), decay]
model: {width: 8, heads: 2, ffn: null}
data: {source: recall(pairs=2), sequence: 16}
train: {steps: 4, batch_tokens: 32, precision: fp32, device: cpu, checkpoint_every: 2, validate_every: 9, lr: 1e-2,
  min_lr: 1e-2, optimizer: {name: heavy, momentum: .5}, engine: counting, first: 10}
"""
Call = Callable[..., tuple[int, str]]


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The options that name the four files, for a user who trusts nothing yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HYBRIDKIT_CACHE", str(tmp_path / "cache"))
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that what training sets is taken back
        monkeypatch.delenv(name)
    (tmp_path / "mine").mkdir()
    for name, text in FILES.items():
        (tmp_path / "mine" / f"{name}.py").write_text(text)
    (tmp_path / "r.yaml").write_text(RECIPE)
    new_process(monkeypatch)
    yield [word for name in FILES for word in ("--plugin", f"mine/{name}.py")]
    REGISTRY.clear()


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line in this process: exit code, and what was printed."""

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["hybridkit", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), "".join(capsys.readouterr())

    return run


def lines(run: str) -> list[dict[str, object]]:
    """The training lines of a run, without those that hold time."""
    found = map(json.loads, Path(run, "metrics.jsonl").read_text().splitlines())
    timed = ("seconds", "tokens_per_second", "mfu")
    return [{key: value for key, value in line.items() if key not in timed} for line in found if "loss" in line]


@pytest.mark.slow
def test_one_file_of_each_kind_trains_and_resumes(
    outside: list[str], call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("train", "r.yaml", "--run", "whole", *outside)[0] == 0
    whole = lines("whole")
    assert [line["window"] for line in whole] == [2, 4, 2, 4]
    assert [line["steps"] for line in whole] == [11, 12, 13, 14]
    manifest = Run(Path("whole")).record()
    assert manifest and manifest.entries == {"counted_from": 10}
    assert (manifest.engine, manifest.optimizer) == ("counting", "heavy")
    assert (
        set(manifest.code or ())
        == {f"{name}.py" for name in FILES}
        == {p.name for p in Path("whole/plugins").iterdir()}
    )

    assert call("train", "r.yaml", "train.steps=2", "--run", "part", *outside)[0] == 0
    new_process(monkeypatch)
    code, said = call("train", "part/recipe.yaml", "train.steps=4", "--run", "part", "--resume")  # with its own copies
    assert code == 0, said
    assert [line["loss"] for line in lines("part")] == [line["loss"] for line in whole]
    assert [line["steps"] for line in lines("part")] == [11, 12, 11, 12], "the engine counts from anew"


def test_copies_of_every_kind_need_trust(outside: list[str], call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("train", "r.yaml", "train.steps=1", "pattern=sa", "--run", "run", *outside)[0] == 0
    new_process(monkeypatch)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(Path("another").absolute()))
    code, said = call("train", "run/recipe.yaml", "train.steps=2", "--run", "run", "--resume")
    assert code == 2 and "not trusted" in said and "heavy.py" in said and "counting.py" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train.optimizer={name: heavy, momentum: 2}"], "train.optimizer.momentum should be less than 1, not 2"),
        (
            ["train.optimizer={name: heavy, momentun: .5}"],
            'train.optimizer has no "momentun"; did you mean "momentum"?',
        ),
        (["train.firts=3"], 'train has no "firts"; did you mean "first"?'),
        (["train.first=-1"], "train.first should be greater than or equal to 0, not -1"),
        (["train.optimizer=havy"], "did you mean heavy?"),
        (["train.optimizer=counting"], "train.optimizer should name an optimizer (adamw, heavy"),
        (["train.engine=decay"], "train.engine should name an engine (counting, deepspeed, local"),
        (["--ranks", "2"], "train.engine: counting is one process; set train.engine=deepspeed"),
        (["train.engine=local", "pattern=heavy"], "unknown block `heavy`"),
    ],
)
def test_a_slip_is_told_with_what_plug_ins_declare(outside: list[str], call: Call, words: list[str], said: str) -> None:
    code, printed = call("train", "r.yaml", "--run", "run", *words, *outside)
    assert code == 2 and said in " ".join(printed.split()) and not Path("run").exists()


def test_the_state_of_another_optimizer_is_refused(outside: list[str], call: Call) -> None:
    assert call("train", "r.yaml", "train.steps=1", "--run", "run", *outside)[0] == 0
    code, said = call("train", "r.yaml", "train.optimizer=adamw", "--run", "run", "--resume", *outside)
    assert code == 2 and "set train.optimizer=heavy" in " ".join(said.split())
