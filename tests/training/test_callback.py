"""Callbacks are told what metrics.jsonl gets; one that fails ends the run with a message that names it."""

from pathlib import Path
from typing import Any

import pytest
from told import Told

from hybridkit.runs.run import Run, load_recipe
from hybridkit.system.errors import Failure
from hybridkit.training.callback import Callback, TrainingStart
from hybridkit.training.trainer import run_training


class Remembers(Callback):
    """Keeps every event."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def on_start(self, start: TrainingStart) -> None:
        self.events.append(("start", start._replace(lines=len(start.lines))))  # type: ignore[arg-type]

    def on_step(self, line: Any, bits_per_byte: float | None) -> None:
        self.events.append(("line", line))

    def on_validation(self, line: Any) -> None:
        self.events.append(("line", line))

    def on_checkpoint(self, folder: Path, step: int) -> None:
        assert (folder / "manifest.json").is_file() or step < 4, "only old ones are gone"
        self.events.append(("checkpoint", step))

    def on_end(self) -> None:
        self.events.append(("end", None))

    def of(self, event: str) -> list[Any]:
        return [what for name, what in self.events if name == event]


def test_callbacks_get_what_the_log_gets(recipe: Path, tmp_path: Path) -> None:
    first, then = Remembers(), Remembers()
    words = ["train.steps=4", "train.checkpoint_every=2", "train.validate_every=3"]
    run_training(load_recipe(recipe, words), tmp_path / "run", resume=False, reporter=Told(), callbacks=[first])
    run = Run(tmp_path / "run")
    assert first.of("line") == run.metrics().lines
    assert first.of("checkpoint") == [2, 4] and first.events[-1] == ("end", None)
    assert first.of("start") == [(run.path, 0, 4, 0)]

    before = len(run.metrics().lines)
    words[0] = "train.steps=5"
    run_training(load_recipe(recipe, words), run.path, resume=True, reporter=Told(), callbacks=[then])
    assert then.of("start") == [(run.path, 4, 5, before)]
    assert then.of("line") == run.metrics().lines[before:]


class Breaks(Callback):
    """Fails at the second step."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def on_step(self, line: Any, bits_per_byte: float | None) -> None:
        if line["step"] == 2:
            raise self.error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("gain"), r"callback Breaks, on_step: KeyError: 'gain'"),
        (OSError(28, "No space left on device"), r"callback Breaks: No space left on device; newest checkpoint"),
    ],
)
def test_a_callback_that_fails_is_named(recipe: Path, tmp_path: Path, error: Exception, said: str) -> None:
    other = Remembers()
    with pytest.raises(Failure, match=said):
        run_training(
            load_recipe(recipe), tmp_path / "run", resume=False, reporter=Told(), callbacks=[Breaks(error), other]
        )
    assert other.events[-1] == ("end", None), "the others are told that training ends"
    assert len(Run(tmp_path / "run").metrics().lines) == 2, "the log has the line all the same"


@pytest.mark.parametrize("event", ["check", "metrics", "prepare"])
def test_one_that_fails_before_the_first_step_is_named_and_no_run_is_left(
    event: str, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Callback, *said: object) -> None:
        raise KeyError("gain")

    monkeypatch.setattr(Remembers, event, fail)
    with pytest.raises(Failure, match=rf"callback Remembers, {event}: KeyError: 'gain'"):
        run_training(load_recipe(recipe), tmp_path / "run", resume=False, reporter=Told(), callbacks=[Remembers()])
    assert not (tmp_path / "run").exists()
