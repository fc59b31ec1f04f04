"""The lines at the beginning and the end of training say what metrics.jsonl says."""

from pathlib import Path

import pytest

import hybridkit as hk
from hybridkit.report import run_summary


@pytest.mark.slow
def test_beginning_and_end_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYBRIDKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(run_summary, "SETTLED", 0.0)
    recipe = {
        "pattern": "swa:8",
        "model": {"width": 16, "heads": 2},
        "data": {"source": "recall(pairs=2)", "sequence": 32},
        "train": {
            "steps": 4, "batch_tokens": 64, "precision": "fp32", "device": "cpu", "validate_every": 2, "warmup": 0.0,
        },
    }  # fmt: skip
    run = hk.train(recipe, tmp_path / "run")
    said = capsys.readouterr().out
    total = hk.costs(recipe)["params"]["total"]
    assert f"model: swa:8, {run_summary.format_parameters(total)} parameters" in said
    assert "training: 4 steps of 64 tokens, 256 tokens" in said
    assert f"memory: {run_summary.format_bytes(16 * total)} of weights" in said
    assert said.count("for the other 2 steps") == 1
    last = [line for line in run.metrics if "val_loss" in line][-1]
    (*_, loss) = (line["loss"] for line in run.metrics if "loss" in line)  # a tenth of the steps, and one at least
    assert f"loss: {loss:.4f}, of the last step; validation {last['val_loss']:.4f}" in said
    assert f"weights: {run.path}/checkpoints/step-4" in said and f"hybridkit eval {run.path}" in said
    hk.train(recipe, run.path, overrides={"train.steps": 5}, resume=True)
    assert "done: 5 steps (1 of them now), 320 tokens" in capsys.readouterr().out
    hk.train(recipe, tmp_path / "quiet", overrides={"train.steps": 1}, quiet=True)
    assert not capsys.readouterr().out
