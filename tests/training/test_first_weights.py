"""A run that begins with the weights of another run's checkpoint (`train.from`)."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from compare import assert_same
from told import Go

from hybridkit.runs.run import Run, load_recipe
from hybridkit.runs.weights import read_tensors
from hybridkit.system.errors import UserError
from hybridkit.training.estimate import estimate

STILL = ("train.steps=1", "train.lr=1e-30", "train.min_lr=0", "train.weight_decay=0")  # weights stay as they begin


def _first(run: Run) -> dict[str, torch.Tensor]:
    checkpoint = run.newest().checkpoint
    assert checkpoint
    return read_tensors(checkpoint.folder / "model.safetensors")


@pytest.fixture(scope="module")
def best_at_8(whole: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with checkpoints of the steps 4, 8 and 12, which says that it was best at 8."""
    run = Run(shutil.copytree(whole.path, tmp_path_factory.mktemp("best") / "run"))
    lines = [line | ({"val_loss": 0.0} if line["step"] == 8 else {}) for line in run.metrics().lines]
    run.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return run


@pytest.mark.slow
@pytest.mark.parametrize(("said", "step"), [("{}", 12), ("{{run: {}, checkpoint: 4}}", 4),
                                            ("{{run: {}, checkpoint: best}}", 8)])  # fmt: skip
def test_weights_are_those_of_the_checkpoint_that_is_named(
    best_at_8: Run, go: Go, tmp_path: Path, said: str, step: int
) -> None:
    run = Run(tmp_path / "run")
    told = go(run.path, f"train.from={said.format(best_at_8.path)}", *STILL)
    assert any(line.endswith(f"step-{step}") for line in told.messages if line.startswith("train.from: the weights of"))
    for name, tensor in best_at_8.weights(step).items():
        torch.testing.assert_close(_first(run)[name], tensor, rtol=0, atol=0)
    manifest = run.newest().manifest
    assert manifest and manifest.entries["from_step"] == step
    assert manifest.entries["from_sha256"] == best_at_8.chosen(step)[1].files["model.safetensors"].sha256


@pytest.mark.slow
def test_a_resumed_run_keeps_its_first_weights_although_the_other_run_is_gone(
    whole: Run, go: Go, tmp_path: Path
) -> None:
    other = shutil.copytree(whole.path, tmp_path / "other")
    said = f"train.from={{run: {other}, checkpoint: 8}}"
    straight, resumed = Run(tmp_path / "straight"), Run(tmp_path / "resumed")
    go(straight.path, said)
    go(resumed.path, said, "train.steps=4")
    shutil.copytree(resumed.path, tmp_path / "again")
    with pytest.raises(UserError, match=r"train\.from: \{run: .*, checkpoint: 8\} in the run, .*other now"):
        go(tmp_path / "again", f"train.from={other}", resume=True)
    shutil.rmtree(other)
    go(resumed.path, said, resume=True)
    one, two = (run.newest().manifest for run in (straight, resumed))
    assert one and two and one.entries == two.entries and one.entries["from_step"] == 8


@pytest.mark.slow
def test_a_killed_run_that_began_with_other_weights_is_the_uninterrupted_one(
    whole: Run, go: Go, tmp_path: Path
) -> None:
    said, run, straight = f"train.from={{run: {whole.path}, checkpoint: 4}}", Run(tmp_path / "a"), Run(tmp_path / "b")
    go(straight.path, said)
    go(run.path, said)
    for step in (8, 12):
        shutil.rmtree(run.checkpoint_folder / f"step-{step}")
    go(run.path, said, resume=True)
    assert_same(run, straight)


def test_what_names_no_checkpoint(whole: Run, go: Go, recipe: Path, tmp_path: Path) -> None:
    lacking = f"train.from={{run: {whole.path}, checkpoint: 7}}"
    for ask in (lambda: go(tmp_path / "new", lacking), lambda: estimate(load_recipe(recipe, [lacking]), 1)):
        with pytest.raises(UserError, match=r"train\.from: .* of step 7; it has checkpoints of the steps 4, 8, 12"):
            ask()
    assert not (tmp_path / "new").exists()
    for said, why in {
        "{run: a, checkpoint: bets}": r"train\.from\.checkpoint should be a step, `best` or `newest`, not \"bets\"",
        "{run: a, checkpoint: -1}": r"train\.from\.checkpoint should be a step",
        "{run: a, checkpoint: true}": r"train\.from\.checkpoint should be a step",
        "{run: a, chekpoint: 1}": 'did you mean "checkpoint"',
        "{checkpoint: best}": "train.from needs `run`",
        "[a, b]": r"train\.from should be the folder of a run, or \{run: \.\.\., checkpoint: best\}",
        "7": r"train\.from should be the folder of a run, or \{run: \.\.\., checkpoint: best\}, not 7",
        "''": r"train\.from should be the folder of a run",
    }.items():
        with pytest.raises(UserError, match=why):
            go(tmp_path / "new", f"train.from={said}")
