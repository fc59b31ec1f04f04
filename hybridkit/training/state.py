"""What a run keeps between steps beside weights and optimizer: a checkpoint's state.json."""

import statistics
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hybridkit.recipe.train import better
from hybridkit.runs.manifest import STATE, Invalid, read_json
from hybridkit.runs.run import Checkpoint, Run
from hybridkit.system.pydantic_errors import first_error

RECENT = 100  # losses that a new one is compared with
MOST = 10**15  # steps and batches: more than any run has, and small enough to be multiplied
FEWEST = 20  # recent losses without which no loss counts as a spike


class TrainState(BaseModel):
    """Where a run stands."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    step: int = Field(default=0, ge=0, le=MOST)  # done, from which learning rate and windows follow
    position: int = Field(default=0, ge=0, le=MOST)  # batches read: `step`, and those that were skipped
    recent: Annotated[list[float], Field(max_length=RECENT)] = []  # losses of the last steps that have one
    scheduled: int | None = Field(default=None, ge=0, le=MOST)  # step of the checkpoint that a rollback returns to
    best: int | None = Field(default=None, ge=0, le=MOST)  # step of the checkpoint that is best by `train.best`
    best_value: float | None = None  # its figure
    best_metric: str | None = Field(default=None, max_length=1 << 12)  # whose; older states do not say it
    stopped: str | None = Field(default=None, max_length=1 << 12)  # the `train.until` that was met
    passed_over: int = Field(default=0, ge=0, le=MOST)  # spikes since that checkpoint

    def spikes(self, loss: float | None, limit: float) -> bool:
        """Whether a loss lies more than `limit` nats above the median of the recent ones; None never does."""
        return loss is not None and len(self.recent) >= FEWEST and loss > statistics.median(self.recent) + limit

    def advance(self, loss: float | None) -> None:
        """One step done, with one batch; None: it counted no target."""
        self.step += 1
        self.position += 1
        if loss is not None:
            self.recent = [*self.recent[1 - RECENT :], loss]

    def judge(self, metric: str, value: float) -> None:
        """Here is a checkpoint with this figure."""
        self._judge(metric, value, self.step)

    def follow(self, metric: str | None, run: Run) -> None:
        """`train.best` says `metric` now. If it said another one, the checkpoints that are left are judged again."""
        if metric is None or metric == self.best_metric:
            return
        self.best, self.best_value = None, None
        steps = {checkpoint.step for checkpoint in run.checkpoints() if checkpoint.step <= self.step}
        for line in run.metrics().lines:
            if line["step"] in steps and isinstance(value := line.get(metric), int | float):
                self._judge(metric, float(value), line["step"])

    def _judge(self, metric: str, value: float, step: int) -> None:
        self.best_metric = metric
        if self.best_value is None or better(metric, value, self.best_value):
            self.best, self.best_value = step, value

    @property
    def needed(self) -> set[int]:
        """Steps of checkpoints that are kept in any case."""
        return {step for step in (self.scheduled, self.best) if step is not None}

    def schedule(self) -> None:
        """Here is a checkpoint that a rollback returns to."""
        self.scheduled, self.passed_over = self.step, 0


def load_train_state(checkpoint: Checkpoint) -> TrainState:
    """The state in a checkpoint. Raises Invalid."""
    try:
        state = TrainState.model_validate(read_json(checkpoint.folder / STATE))
    except ValidationError as error:
        raise Invalid(f"{STATE}: {first_error(error)}") from error
    if state.step != checkpoint.step or (state.scheduled or 0) > state.step:
        raise Invalid(f"{STATE} is not that of step {checkpoint.step}")
    return state
