"""What happens during training, for whoever wants to know: progress bars, TensorBoard, tests of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hybridkit.system.errors import Failure, Interrupted, UserError

if TYPE_CHECKING:
    from hybridkit.data.tokenizer import Tokenizer
    from hybridkit.model.model import Model
    from hybridkit.model.plan import Plan

Line = Mapping[str, Any]  # of metrics.jsonl


class TrainingStart(NamedTuple):
    """Where training begins or goes on."""

    run: Path  # its folder
    step: int  # done so far
    steps: int  # of the whole run
    lines: Sequence[Line]  # of metrics.jsonl so far


class Callback:
    """Is told what happens, on rank 0. A subclass overrides what it wants to know; nothing here does anything."""

    def on_start(self, start: TrainingStart) -> None:
        """Training begins, or goes on with a run."""

    def on_rollback(self, start: TrainingStart) -> None:
        """A spike led back to an earlier step: the lines after it are gone."""

    def on_step(self, line: Line, bits_per_byte: float | None) -> None:
        """An update was made: its line of metrics.jsonl, and the training loss in bits per byte."""
        self.on_line(line)

    def on_validation(self, line: Line) -> None:
        """The held-out text was evaluated: its line of metrics.jsonl."""
        self.on_line(line)

    def on_probe(self, line: Line) -> None:
        """Callbacks have measured something: its line of metrics.jsonl."""
        self.on_line(line)

    def on_line(self, line: Line) -> None:
        """A line of metrics.jsonl, whatever it says: for callbacks that override none of the three above."""

    def on_checkpoint(self, folder: Path, step: int) -> None:
        """A checkpoint is complete."""

    def on_end(self) -> None:
        """Training stops, for whatever reason."""

    def metrics(self) -> Sequence[str]:
        """The names of the figures that `measure` gives: what `train.until` and `train.best` may name."""
        return ()

    def check(self, plan: Plan) -> None:
        """Before anything is trained. Raises UserError where this callback does not suit the model."""

    def prepare(self, tokenizer: Tokenizer) -> None:
        """The text can be read, and nothing is written yet. Every rank is asked. Raises UserError for figures that
        cannot be had with this tokenizer."""

    def due(self, step: int, last: bool) -> bool:
        """Whether something is to be measured after `step` updates; `last`: of the run."""
        return False

    def measure(self, step: int, last: bool, model: Model) -> Line:
        """Figures for a line of metrics.jsonl. The model must be left as it is, and global generators alone."""
        return {}

    def summary(self) -> str:
        """What to say at the end of training; nothing by default."""
        return ""


class Callbacks:
    """Several callbacks, told in order. What one of them raises ends the run with a message that names it."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = callbacks

    def tell(self, event: str, *said: Any) -> list[Any]:
        """Call the method `event` of each; what they return. Raises Failure, or OSError for what one cannot write."""
        answers = []
        for callback in self._callbacks:
            try:
                answers.append(getattr(callback, event)(*said))
            except (UserError, Failure, Interrupted):
                raise
            except OSError as error:
                raise OSError(error.errno, f"{_name(callback)}: {error.strerror or error}") from error
            except Exception as error:
                raise Failure(f"{_name(callback)}, {event}: {type(error).__name__}: {error}") from error
        return answers


def _name(callback: Callback) -> str:
    return f"callback {type(callback).__name__}"
