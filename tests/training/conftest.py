"""A run that takes a second: a small hybrid with stochastic windows on a few kilobytes of text."""

import random
from pathlib import Path

import pytest
from told import Go, Told

from hybridkit.runs.run import Run, load_recipe
from hybridkit.training.trainer import run_training

RECIPE = """\
pattern: [swa:stoch(4,16,p=.5), mlstm]*1
model: {{width: 16, heads: 2}}
data: {{source: {text}, sequence: 32, validation: .2}}
train: {{steps: 12, batch_tokens: 128, lr: 1e-2, min_lr: 1e-3, validate_every: 5, checkpoint_every: 4,
  precision: fp32, device: cpu}}
"""


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    words = random.Random(0)
    for number in range(6):
        said = (words.choice(["window", "state", "short", "long"]) for _ in range(60))
        (folder / f"{number}.txt").write_text(" ".join(said))
    return folder


@pytest.fixture(scope="session")
def recipe(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(RECIPE.format(text=text))
    return path


@pytest.fixture(scope="session")
def go(recipe: Path) -> Go:
    """`go(folder, "train.steps=3", ..., resume=True)` trains the tiny recipe and returns what was told."""

    def run(folder: Path, *overrides: str, resume: bool = False) -> Told:
        told = Told()
        run_training(load_recipe(recipe, overrides), folder, resume=resume, reporter=told)
        return told

    return run


@pytest.fixture(scope="session")
def whole(go: Go, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An uninterrupted run; not to be written to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    go(folder)
    return Run(folder)
