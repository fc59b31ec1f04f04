"""`train.log: [tensorboard, wandb]`: the figures of a run go to Weights & Biases. Needs the package `wandb`."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any, Literal

from hybridkit.recipe.schema import Recipe
from hybridkit.system.errors import UserError
from hybridkit.training.callback import Callback, Line, TrainingStart
from hybridkit.training.logger import Logger, tagged

ID = "wandb.txt"  # in the run folder: which run there is this one


class WandB(Logger):
    """A run of a project at Weights & Biases, by default named like the run folder; `--resume` goes on with it."""

    project: str = "hybridkit"
    entity: str | None = None
    mode: Literal["online", "offline"] = "online"

    def open(self, recipe: Recipe) -> Callback:
        if find_spec("wandb") is None:
            raise UserError("train.log: wandb is not installed: pip install wandb, or take it out of train.log")
        return _Run(self, recipe)


class _Run(Callback):
    def __init__(self, spec: WandB, recipe: Recipe) -> None:
        self._spec, self._recipe = spec, recipe
        self._run: Any = None

    def on_start(self, start: TrainingStart) -> None:
        wandb = importlib.import_module("wandb")
        known = start.run / ID
        identity = known.read_text(encoding="utf-8").strip() if start.step and known.is_file() else None
        self._run = wandb.init(
            project=self._spec.project, entity=self._spec.entity, mode=self._spec.mode, name=start.run.name,
            id=identity, resume="allow", config=self._recipe.model_dump(mode="json", by_alias=True),
        )  # fmt: skip
        known.write_text(f"{self._run.id}\n", encoding="utf-8")
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")  # its own count never goes back, as a rollback does

    def on_line(self, line: Line) -> None:
        self._run.log({"step": line["step"], **dict(tagged(line))})

    def on_end(self) -> None:
        if self._run:
            self._run.finish()
            self._run = None
