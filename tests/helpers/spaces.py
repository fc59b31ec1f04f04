"""Space files for tests: a model that trains a step in milliseconds, on data that needs no corpus."""

from collections.abc import Callable
from pathlib import Path

from hybridkit.search.definition import read_definition
from hybridkit.search.outcome import Outcome
from hybridkit.search.study import Study, create
from hybridkit.search.trials import Trial

BASE = """
pattern: [swa:8, mlstm]
model: {width: 16, heads: 2, ffn: {width: 16}}
data:
  source: recall(pairs=2, keys=4, values=4)
  sequence: 16
train: {steps: 4, batch_tokens: 2k, lr: 3e-3, min_lr: 1e-4, validate_every: 1000, checkpoint_every: 5, precision: fp32}
"""
SEQUENCES = """
extends: base.yaml
space:
  layers: {length: 4, of: [swa:4, swa:16, mlstm, sa], symmetric: no}
"""


def write_space(folder: Path, text: str) -> Path:
    """The space file, with its base beside it."""
    (folder / "base.yaml").write_text(BASE)
    (folder / "space.yaml").write_text(text)
    return folder / "space.yaml"


def new_study(folder: Path, text: str, name: str = "study") -> Study:
    return create(read_definition(write_space(folder, text)), folder / name, None)


def try_all(study: Study, loss: Callable[[Trial], float], most: int = 1000) -> list[Trial]:
    """Run a study with trials that train nothing and report `loss` as their val_loss."""
    for _ in range(most):
        trial = study.begin()
        if trial is None:
            break
        seeds = study.definition.file.trial.seeds
        study.end(trial, Outcome([{"val_loss": loss(trial) + seed} for seed in range(seeds)]))
    return study.trials()


def full_attention(trial: Trial) -> float:
    """A loss that falls with every sa that a pattern has."""
    return 4.0 - sum(value == "sa" for value in trial.params.values())
