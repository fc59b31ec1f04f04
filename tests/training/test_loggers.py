"""What `train.log` names gets the figures of metrics.jsonl, in groups; a resume goes on with what was there."""

import sys
from pathlib import Path
from typing import Any

import pytest
from told import Go

from hybridkit.recipe.messages import RecipeError
from hybridkit.runs.run import Run, load_recipe
from hybridkit.system.errors import UserError
from hybridkit.training.logger import tagged

FAKE = """
import json, os
from pathlib import Path

class Run:
    id = "abc"
    def define_metric(self, name, step_metric=None): pass
    def log(self, line): self._write(line)
    def finish(self): self._write("finished")
    def _write(self, what):
        with open("wandb.jsonl", "a") as file: file.write(json.dumps(what) + "\\n")

def init(**said):
    run = Run()
    run._write({name: said[name] for name in ("project", "mode", "name", "id")})
    return run
"""


def events(run: Run) -> list[Any]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    (file,) = run.tensorboard.iterdir()
    return list(EventFileLoader(str(file)).Load())


def scalars(found: list[Any]) -> dict[tuple[str, int], float]:
    values = ((event, value) for event in found for value in event.summary.value)
    numbers = [(event, value) for event, value in values if value.metadata.plugin_data.plugin_name == "scalars"]
    return {(value.tag, event.step): value.tensor.float_val[0] for event, value in numbers}


def test_tensorboard_holds_every_number_in_groups_and_its_times_survive_a_resume(go: Go, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    go(run.path, "train.steps=4")
    before = events(run)
    lines = run.metrics().lines
    wanted = {(tag, line["step"]): value for line in lines for tag, value in tagged(line)}
    assert scalars(before) == pytest.approx(wanted, rel=1e-6)
    assert {tag.split("/")[0] for tag, _ in wanted} == {"train", "speed", "validation"}
    (text,) = [value for event in before for value in event.summary.value if value.tag == "recipe"]
    assert b"pattern: " in text.tensor.string_val[0]

    file = next(run.tensorboard.iterdir())
    file.write_bytes(file.read_bytes() + b"\x40\0\0\0")  # a record that a kill cut off
    go(run.path, "train.steps=5", resume=True)
    after = [event for event in events(run) if 1 <= event.step <= 4]
    times = {event.step: event.wall_time for event in before if event.step}
    assert len(times) == 4 and all(event.wall_time == times[event.step] for event in after if event.step < 4)
    assert ("train/loss", 5) in scalars(events(run))


def test_wandb_is_told_and_goes_on_with_its_run(
    go: Go, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    monkeypatch.chdir(tmp_path)
    words = ["train.steps=2", "train.log=[{name: wandb, project: mine, mode: offline}]"]
    with pytest.raises(UserError, match="pip install wandb"):
        go(Path("run"), *words)
    assert not Path("run").exists()
    Path("wandb.py").write_text(FAKE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    go(Path("run"), *words)
    go(Path("run"), "train.steps=3", *words[1:], resume=True)
    monkeypatch.delitem(sys.modules, "wandb")
    said = [json.loads(line) for line in Path("wandb.jsonl").read_text().splitlines()]
    starts = [line for line in said if "project" in line]
    assert [start["id"] for start in starts] == [None, "abc"] and starts[0]["project"] == "mine"
    assert [line["step"] for line in said if "train/loss" in line] == [1, 2, 3] and said[-1] == "finished"
    assert not Run("run").tensorboard.exists()
    with pytest.raises(RecipeError, match="did you mean tensorboard"):
        load_recipe(recipe, ["train.log=[tensorbord]"])
    with pytest.raises(RecipeError, match="projekt"):
        load_recipe(recipe, ["train.log=[{name: wandb, projekt: mine}]"])
