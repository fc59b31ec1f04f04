"""What a run remembers between steps beside weights and optimizer; all of it is in a checkpoint's state.json."""

import statistics
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hybridkit.manifest import STATE, Invalid, read_json
from hybridkit.run import Checkpoint
from hybridkit.wrong import wrong

RECENT = 100  # losses that a spike is held against
FEWEST = 20  # none is called a spike before there are as many


class State(BaseModel):
    """Where a run stands."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    step: int = Field(default=0, ge=0)  # updates done
    position: int = Field(default=0, ge=0)  # batches read; ahead of `step` by those that were skipped
    recent: Annotated[list[float], Field(max_length=RECENT)] = []  # losses of the last updates

    def spikes(self, loss: float, limit: float) -> bool:
        """Whether a loss lies more than `limit` nats above the median of the recent ones."""
        return len(self.recent) >= FEWEST and loss > statistics.median(self.recent) + limit

    def advance(self, loss: float) -> None:
        """One update done, with one batch."""
        self.step += 1
        self.position += 1
        self.recent = [*self.recent[1 - RECENT :], loss]


def load_state(checkpoint: Checkpoint) -> State:
    """The state in a checkpoint. Raises Invalid."""
    try:
        return State.model_validate(read_json(checkpoint.folder / STATE))
    except ValidationError as error:
        raise Invalid(f"{STATE}: {'.'.join(map(str, error.errors()[0]['loc']))} {wrong(error.errors()[0])}") from error
