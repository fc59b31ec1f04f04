"""What was stopped goes on as if it had not been: metrics and weights, bit for bit."""

import errno
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from compare import assert_same, untimed
from forked import COMMAND_LINE, Forked
from reseal import reseal
from told import Go

import hybridkit
from hybridkit.runs.run import Run
from hybridkit.system.errors import Failure, Interrupted, UserError
from hybridkit.system.files import FileOperations
from hybridkit.system.machine import CPUINFO
from hybridkit.system.notices import listening
from hybridkit.training.loop import Loop
from hybridkit.training.state import load_train_state


def test_metrics_have_a_line_a_step_and_validation(whole: Run) -> None:
    lines = whole.metrics().lines
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))
    assert [line["step"] for line in lines if "val_loss" in line] == [5, 10, 12]
    first = lines[0]
    keys = "step loss lr grad_norm window tokens seconds tokens_per_second mfu"
    assert list(first) == keys.split() and first["tokens"] == 128
    assert {line["window"] for line in lines if "loss" in line} == {4, 16}
    assert list(lines[5]) == ["step", "val_loss", "val_bits_per_byte"]


@pytest.mark.slow
def test_sigkill_then_resume_equals_an_uninterrupted_run(go: Go, recipe: Path, tmp_path: Path) -> None:
    whole, run, steps = Run(tmp_path / "whole"), Run(tmp_path / "run"), "train.steps=40"
    go(whole.path, steps)
    with Forked(COMMAND_LINE, "train", str(recipe), steps, "--run", str(run.path)) as process:
        while process.poll() is None and len(run.metrics().lines) < 10:
            time.sleep(0.002)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    go(run.path, steps, resume=True)
    assert_same(run, whole)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_and_saves(
    whole: Run, go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    run = Run(tmp_path / "run")
    before = signal.getsignal(number)
    _signal_in_step(monkeypatch, 6, number)
    with pytest.raises(Interrupted, match="after step 6") as stopped:
        go(run.path)
    assert stopped.value.code == code and signal.getsignal(number) == before
    assert run.newest().checkpoint.step == 6
    go(run.path, resume=True)
    assert_same(run, whole)


def test_a_step_that_fails_for_a_signal_is_interrupted(go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a signal to all of a terminal's processes ends the compiler, too: it was a traceback."""

    def killed(self: Loop) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("the compiler died")

    monkeypatch.setattr(Loop, "_step", killed)
    with pytest.raises(Interrupted, match=r"^SIGTERM: step 1 was not finished; there is no checkpoint yet") as stopped:
        go(tmp_path / "run")
    assert stopped.value.code == 143


def test_sigusr1_saves_and_goes_on(go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path / "run")
    _signal_in_step(monkeypatch, 3, signal.SIGUSR1)
    go(run.path, "train.steps=5")
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [5, 4, 3]


def _signal_in_step(monkeypatch: pytest.MonkeyPatch, step: int, number: int) -> None:
    whole_step = Loop._step

    def signalled(self: Loop) -> bool:
        if self._state.step == step - 1:
            os.kill(os.getpid(), number)
        return whole_step(self)

    monkeypatch.setattr(Loop, "_step", signalled)


@pytest.mark.slow
def test_before_the_first_checkpoint_it_starts_again(whole: Run, go: Go, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    go(run.path, "train.steps=2")
    shutil.rmtree(run.checkpoint_folder)
    assert "starting at step 1" in go(run.path, resume=True)
    assert_same(run, whole)
    assert "starting at step 1" in go(tmp_path / "new", "train.steps=1", resume=True)


def test_a_metrics_file_cut_in_mid_line(whole: Run, go: Go, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    shutil.copytree(whole.path, run.path)
    shutil.rmtree(run.checkpoint_folder / "step-12")
    run.metrics_file.write_bytes(run.metrics_file.read_bytes()[:-7])
    assert "dropped 1 line" in go(run.path, resume=True)
    assert_same(run, whole)


@pytest.mark.parametrize(
    ("kept", "said"),
    [([], "1 to 12"), ([1, 2, 5, 12], "3 to 4, 6 to 11"), ([2, 4, 6, 8, 10], "1, 3, 5 and 3 more stretches")],
)
def test_steps_whose_lines_are_missing_are_told(whole: Run, go: Go, tmp_path: Path, kept: list[int], said: str) -> None:
    """An emptied file was passed over in silence, and a file of lines that cannot be read was not."""
    run = Run(shutil.copytree(whole.path, tmp_path / "run"))
    lines = [line for line in run.metrics_file.read_text().splitlines(True) if json.loads(line)["step"] in kept]
    run.metrics_file.write_text("".join(lines)) if lines else run.metrics_file.unlink()
    told = go(run.path, "train.steps=13", resume=True)
    assert f"metrics.jsonl: there are no lines of steps {said}" in told
    assert "no lines" not in go(shutil.copytree(whole.path, tmp_path / "all"), "train.steps=13", resume=True)


def test_a_finished_run_says_so_and_a_longer_one_goes_on(whole: Run, go: Go, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    shutil.copytree(whole.path, run.path)
    assert "finished" in go(run.path, resume=True)
    told = go(run.path, "train.steps=13", "train.lr=2e-2", resume=True)
    assert "train.steps: 12 in the run, 13 now" in told and "train.lr" in told
    assert untimed(run)[: len(untimed(whole))] == untimed(whole)
    assert untimed(run)[-1]["step"] == 13


@pytest.mark.parametrize(
    "change",
    [
        "pattern=[swa:4, mlstm]*1",
        "model.width=32",
        "data.sequence=64",
        "train.seed=1",
        "train.batch_tokens=64",
    ],
)
def test_what_must_not_change_is_refused(whole: Run, go: Go, change: str) -> None:
    with pytest.raises(UserError, match=change.partition("=")[0]):
        go(whole.path, change, resume=True)


def test_the_state_of_another_optimizer_is_refused(whole: Run, go: Go, tmp_path: Path) -> None:
    shutil.copytree(whole.path, tmp_path / "run")
    with pytest.raises(UserError, match=r"muon cannot go on .* the state of adamw: set train\.optimizer=adamw"):
        go(tmp_path / "run", "train.optimizer=muon", "train.steps=13", resume=True)


def test_a_folder_that_holds_a_run_is_refused(whole: Run, go: Go) -> None:
    with pytest.raises(UserError, match=r"--resume.*--run"):
        go(whole.path)


def test_text_that_changed_is_refused(whole: Run, go: Go, text: Path, tmp_path: Path) -> None:
    shutil.copytree(whole.path, tmp_path / "run")
    more = text / "more.txt"
    more.write_text("another document, " * 20)
    try:
        with pytest.raises(UserError, match="not what this run was trained on"):
            go(tmp_path / "run", "train.steps=13", resume=True)
    finally:
        more.unlink()


def test_a_tokenizer_that_was_put_into_the_run_is_replaced_by_its_own(whole: Run, go: Go, tmp_path: Path) -> None:
    run = Run(shutil.copytree(whole.path, tmp_path / "run"))
    (run.path / "tokenizer.json").write_text("{}")
    go(run.path, "train.steps=13", resume=True)
    assert len(hybridkit.load(run.path).embedding.weight) == 257, "it was refused after the training"


def test_from_takes_weights_and_nothing_else(whole: Run, go: Go, tmp_path: Path) -> None:
    again = Run(tmp_path / "again")
    go(again.path, f"train.from={whole.path}", "train.steps=1", "data.sequence=64", "pattern=[swa:8, mlstm]*1")
    first, last = again.metrics().lines[0], [line for line in whole.metrics().lines if "loss" in line][-1]
    assert first["loss"] == pytest.approx(last["loss"], rel=0.2) and first["step"] == 1
    with pytest.raises(UserError, match=r"embedding\.weight is \[257, 16\] there, and \[257, 32\]"):
        go(tmp_path / "other", f"train.from={whole.path}", "model.width=32")


def test_a_file_in_the_way_and_a_run_that_is_not_there(go: Go, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match="a file is in the way"):
            go(path)
    with pytest.raises(UserError, match="no such run folder"):
        go(tmp_path / "new", f"train.from={tmp_path / 'none'}")


def test_pruning_comes_first_so_that_a_full_disk_can_be_resumed_with_less(go: Go, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    go(run.path, "train.steps=3", "train.checkpoint_every=1")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Failure):
        patch.setattr(FileOperations, "tensors", _full)
        go(run.path, "train.steps=9", "train.keep=1", resume=True)
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [3]


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


EDITS = {"norm_eps": 0.5, "residual_scale": 2.0, "embedding_scale": 3.0, "logit_scale": 0.5}


@pytest.mark.parametrize(("name", "value"), EDITS.items())
def test_an_edit_that_changes_no_shape_is_told_and_not_resumed(
    whole: Run, go: Go, tmp_path: Path, name: str, value: float
) -> None:
    """Figures of another function of the same weights were silent, and such a run was resumed."""
    run = Run(shutil.copytree(whole.path, tmp_path / "run"))
    text = run.recipe_file.read_text(encoding="utf-8")
    edited = re.sub(rf"(?m)^  {name}: .*$", f"  {name}: {value}", text)
    assert edited != text
    run.recipe_file.write_text(edited, encoding="utf-8")
    said: list[str] = []
    with listening(said.append):
        hybridkit.load(run.path)
    assert len(said) == 1 and f"model.{name} is {value}, and was " in said[0]
    with pytest.raises(UserError, match=rf"must not change on --resume:\n  model\.{name}: .* in the run, {value} now"):
        go(run.path, f"model.{name}={value}", "train.steps=13", resume=True)
    assert "finished" in go(run.path, resume=True)  # the recipe as it was


def test_of_a_finished_run_changes_have_no_effect_and_another_optimizer_is_refused(whole: Run, go: Go) -> None:
    told = go(whole.path, "train.lr=2e-2", resume=True)
    assert "finished: 12 of 12 steps are done; what was changed has no effect: train.lr: 0.01 in the run, 0.02" in told
    assert "changed: " not in told
    with pytest.raises(UserError, match="holds the state of adamw"):
        go(whole.path, "train.optimizer=muon", resume=True)


def test_a_changed_mixture_is_said_as_recipes_say_it(whole: Run, go: Go, text: Path) -> None:
    with pytest.raises(
        UserError, match=r"data\.source: .* in the run, \[\{source: \S+, weight: 2\.0, name: null\}\] now"
    ):
        go(whole.path, f"data.source=[{{source: {text}, weight: 2}}]", resume=True)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_precision_may_change(go: Go, tmp_path: Path, optimizer: str) -> None:
    """Moments stayed in the type of the run so far: it was a traceback."""
    words = [f"train.optimizer={optimizer}", "train.ema=.5"]
    for steps, precision in enumerate(("fp32", "fp64", "fp32"), start=1):
        told = go(tmp_path / "run", *words, f"train.precision={precision}", f"train.steps={steps}", resume=steps > 1)
    assert "train.precision: fp64 in the run, fp32 now" in told
    assert Run(tmp_path / "run").newest().checkpoint.step == 3  # type: ignore[union-attr]


def test_another_figure_of_the_best_checkpoint_begins_anew(go: Go, tmp_path: Path) -> None:
    """Bits were compared with nats, so that no later checkpoint was the best, and the best by bits was lost."""
    run, often = Run(tmp_path / "run"), ["train.keep=1", "train.checkpoint_every=2", "train.validate_every=2"]
    go(run.path, "train.steps=4", "train.best=val_loss", *often)
    go(run.path, "train.steps=6", "train.best=val_bits_per_byte", *often, resume=True)
    high = ["train.lr=8", "train.min_lr=8", "train.spike=1000"]
    go(run.path, "train.steps=10", "train.best=val_bits_per_byte", *often, *high, resume=True)
    bits = {line["step"]: line["val_bits_per_byte"] for line in run.metrics().lines if "val_loss" in line}
    best = min(bits, key=bits.__getitem__)
    assert best == 6 and {checkpoint.step for checkpoint in run.checkpoints()} == {6, 10}
    state = load_train_state(run.newest().checkpoint)  # type: ignore[arg-type]
    assert (state.best, state.best_value, state.best_metric) == (6, bits[6], "val_bits_per_byte")
    of_old = state.model_copy(update={"best": 10, "best_value": 0.0, "best_metric": None})
    of_old.follow("val_bits_per_byte", run)
    assert of_old == state, "an older state, which does not say whose figure it holds, is judged again"


def test_another_precision_of_the_processor_is_told(go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` took another one without a word. Runs of before, whose manifests say neither, are resumed as they were."""
    run, info = Run(tmp_path / "run"), tmp_path / "cpuinfo"
    monkeypatch.setenv(CPUINFO, str(info))
    info.write_text("flags: avx512_bf16", encoding="utf-8")
    go(run.path, "train.precision=auto", "train.steps=1")
    record = run.record()
    assert record and (record.device, record.precision) == ("cpu", "bf16")
    info.write_text("flags: sse", encoding="utf-8")
    told = go(run.path, "train.precision=auto", "train.steps=2", resume=True)
    assert "precision: fp32, and bf16 so far" in told and "train.precision=bf16" in told and "device" not in told
    reseal(run.newest().checkpoint.folder, device=None, precision=None)  # type: ignore[union-attr]
    told = go(run.path, "train.precision=auto", "train.steps=3", resume=True)
    assert " so far" not in told
