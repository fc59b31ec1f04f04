"""The rules that a run was made by: written by training, read by whoever opens the run, kept on resuming."""

import shutil
from pathlib import Path

import pytest
import torch
from told import Go
from typer.testing import CliRunner

from hybridkit.cli import verbs
from hybridkit.hub.families.hybridkit import config_of
from hybridkit.model.loading import load_model
from hybridkit.recipe.rules_version import CURRENT_RULES, FIRST_RULES
from hybridkit.runs.manifest import NAME, read_manifest, sealed
from hybridkit.runs.run import Run, load_recipe
from hybridkit.system.errors import UserError


def older(run: Run, folder: Path) -> Run:
    """The run as one of the first round, which wrote no version."""
    old = Run(shutil.copytree(run.path, folder))
    lines = old.recipe_file.read_text().splitlines(keepends=True)
    old.recipe_file.write_text("".join(line for line in lines if not line.startswith("rules:")))
    for checkpoint in old.checkpoints():
        manifest = read_manifest(checkpoint.folder).model_copy(update={"recipe": None})
        (checkpoint.folder / NAME).write_bytes(sealed(manifest))
    return old


def test_a_run_says_its_rules_and_an_older_one_has_the_first(whole: Run, tmp_path: Path) -> None:
    assert f"\nrules: {CURRENT_RULES}\n" in whole.recipe_file.read_text()
    assert whole.recipe.recipe.rules == CURRENT_RULES
    assert older(whole, tmp_path / "old").recipe.recipe.rules == FIRST_RULES


def test_an_older_tied_run_is_read_as_it_was_made(go: Go, tmp_path: Path) -> None:
    """Its rows are read as they are, in every form of the model; the current rules scale them by sqrt(width) = 4."""
    go(tmp_path / "new", "model.tie=true", "train.steps=1")
    old = older(Run(tmp_path / "new"), tmp_path / "old")
    new_model, old_model = load_model(tmp_path / "new"), load_model(old.path)
    tokens = torch.arange(40)[None]
    rows = Run(tmp_path / "new").weights()["embedding.weight"][:40]
    torch.testing.assert_close(old_model.embedding(tokens)[0], rows, rtol=0, atol=0)
    torch.testing.assert_close(new_model.embedding(tokens)[0], 4 * rows, rtol=0, atol=0)
    assert not torch.allclose(old_model(tokens)[0], new_model(tokens)[0], atol=1e-3)
    assert [config_of(model)["embedding_scale"] for model in (old_model, new_model)] == [1, 4]
    with pytest.raises(UserError, match=r"train\.from: .* is tied and was made by rules 1"):
        go(tmp_path / "next", "model.tie=true", f"train.from={old.path}")
    assert not (tmp_path / "next").exists()


def test_weights_of_an_older_untied_run_mean_the_same(whole: Run, go: Go, tmp_path: Path) -> None:
    old = older(whole, tmp_path / "old")
    tokens = torch.arange(40)[None]
    torch.testing.assert_close(load_model(old.path)(tokens)[0], load_model(whole.path)(tokens)[0], rtol=0, atol=0)
    go(tmp_path / "next", f"train.from={old.path}", "train.steps=1")


def test_an_older_run_is_not_resumed(whole: Run, go: Go, tmp_path: Path) -> None:
    old = older(whole, tmp_path / "old")
    before = {path: path.read_bytes() for path in sorted(old.path.rglob("*")) if path.is_file()}
    for steps in ("train.steps=12", "train.steps=20"):  # finished or not
        with pytest.raises(UserError, match=f"was made by rules {FIRST_RULES}"):
            go(old.path, steps, resume=True)
    assert {path: path.read_bytes() for path in sorted(old.path.rglob("*")) if path.is_file()} == before


def test_training_follows_the_current_rules_alone(go: Go, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"rules: {FIRST_RULES}: training follows rules {CURRENT_RULES}"):
        go(tmp_path / "run", f"rules={FIRST_RULES}")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=f"rules should be 1 to {CURRENT_RULES}; a newer hybridkit may know others"):
        load_recipe("quickstart", [f"rules={CURRENT_RULES + 1}"])


@pytest.mark.slow
def test_a_runs_recipe_trains_again(go: Go, whole: Run, tmp_path: Path) -> None:
    said = CliRunner().invoke(verbs(), ["train", str(whole.recipe_file), "--run", str(tmp_path / "again")])
    assert said.exit_code == 0 and Run(tmp_path / "again").recipe.recipe == whole.recipe.recipe
