"""A stack with branches side by side is trained, resumed and written from as any other."""

import json
from pathlib import Path

import pytest
from command_line import hybridkit as run
from told import Go

import hybridkit
from hybridkit.runs.run import Run

STACK = ["pattern=[swa:stoch(4,16,p=.5) | swa:8 | mlstm, mlstm]", "model.branches=mean_norm", "model.norm=both"]
CONSTANT = ["train.schedule=constant", "train.warmup=0", "train.checkpoint_every=2"]


@pytest.mark.slow
def test_a_run_with_branches_goes_on_where_it_stopped(go: Go, tmp_path: Path) -> None:
    whole, parts = Run(tmp_path / "whole"), Run(tmp_path / "parts")
    go(whole.path, *STACK, *CONSTANT, "train.steps=4")
    go(parts.path, *STACK, *CONSTANT, "train.steps=2")
    go(parts.path, *STACK, *CONSTANT, "train.steps=4", resume=True)
    lines, again = ([line for line in one.metrics().lines if "loss" in line] for one in (whole, parts))
    assert [(one["loss"], one["grad_norm"]) for one in lines] == [(one["loss"], one["grad_norm"]) for one in again]
    drawn = [line["window"] for line in lines]
    assert {(*one, *one.values()) for one in drawn} == {("0.0", "0.1", 4, 8), ("0.0", "0.1", 16, 8)}
    names = set(hybridkit.load(whole.path).state_dict())
    assert {"layers.0.2.mlstm.q.weight", "layers.0.2.norm.weight", "layers.0.post_norm.weight"} <= names
    written = run("generate", "whole", "window", "--tokens", "40", "--json", cwd=tmp_path)
    assert written.returncode == 0, written.stderr


def test_show_and_flops_say_what_stands_in_the_branches(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "pattern: [swa:stoch(4,16) | mlstm]*2  # a comment\nmodel: {width: 32, branches: mean_norm}\n"
    )
    shown = json.loads(run("show", "r.yaml", "--json", cwd=tmp_path).stdout)
    assert shown["pattern"] == "[swa:stoch(4,16) | mlstm]*2" and shown["branches"] == "mean_norm"
    first = shown["entries"][0]
    assert [(one["index"], one["block"]) for one in first["branches"]] == [("0.0", "swa:stoch(4,16)"), ("0.1", "mlstm")]
    assert first["params"] == sum(one["params"] for one in first["branches"]) + 3 * 32, "a norm before, two behind"
    text = run("show", "r.yaml", cwd=tmp_path).stdout
    assert "side by side" in text and text.count("swa:stoch(4,16)") == 2, "pattern and branch"
    cost = json.loads(run("flops", "r.yaml", "--json", "--context", "64", cwd=tmp_path).stdout)["recipes"][0]
    layer = cost["layers"][0]
    assert [one["index"] for one in layer["branches"]] == ["0.0", "0.1"] and layer["block"] == "swa | mlstm"
    for key in ("forward_flops_per_token", "state_bytes"):
        assert layer[key] == sum(one[key] for one in layer["branches"])
    table = run("flops", "r.yaml", "--context", "64", cwd=tmp_path).stdout
    assert table.count("swa:stoch(4,16)") == 3, "pattern, entry, branch"
