"""`train.log: [tensorboard]`: event files that TensorBoard reads, in the run folder."""

from hybridkit.recipe.schema import Recipe
from hybridkit.training.callback import Callback
from hybridkit.training.logger import Logger
from hybridkit.training.loggers._event_file import EventWriter


class TensorBoard(Logger):
    """Event files in RUN/tensorboard/."""

    def open(self, recipe: Recipe) -> Callback:
        return EventWriter(recipe)
