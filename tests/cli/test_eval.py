"""The verb `eval` on runs trained for a step: what it prints and writes, and every bad input."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from hybridkit.cli.eval import eval as verb
from hybridkit.evaluation.perplexity import perplexity
from hybridkit.evaluation.scoring import ReadOptions
from hybridkit.runs.run import Run, load_recipe
from hybridkit.system.errors import UserError
from hybridkit.training.reporter import Silent
from hybridkit.training.trainer import run_training

RECIPE = """\
pattern: [swa:stoch(4,16,p=.5), mlstm]
model: {width: 16, heads: 2}
data:
  source: SOURCE
  sequence: 32
  validation: .2
train: {steps: 1, batch_tokens: 128, precision: fp32, device: cpu}
"""
FEW = ["--samples", "3", "--device", "cpu"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders `text`, `recall` and `plain`; the last has no windows."""
    folder = tmp_path_factory.mktemp("runs")
    text = folder / "text.txt"
    text.write_text("".join(f"line {n} says {n * n}\n" for n in range(400)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYBRIDKIT_CACHE", str(folder / "cache"))
        for name, source in (("text", str(text)), ("recall", "recall(pairs=2)"), ("plain", str(text))):
            recipe = folder / f"{name}.yaml"
            said = RECIPE.replace("SOURCE", source)
            recipe.write_text(said.replace("[swa:stoch(4,16,p=.5), mlstm]", "mlstm") if name == "plain" else said)
            run_training(load_recipe(recipe), folder / name, resume=False, reporter=Silent())
    return folder


@pytest.fixture(autouse=True)
def workplace(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    monkeypatch.setenv("HYBRIDKIT_CACHE", str(runs / "cache"))


def call(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(verb)
    return CliRunner().invoke(app, [*arguments, *FEW])


def found(*arguments: str) -> dict[str, Any]:
    result = call(*arguments, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


@pytest.mark.slow
def test_text_is_read_at_every_window_and_by_position(runs: Path) -> None:
    import hybridkit
    from hybridkit.data.recipe_data import open_feed

    answer = found("text", "plain", "--context", "128")
    assert list(answer["perplexity"]) == ["text", "plain"]
    model = hybridkit.load("text")
    feed = open_feed(model.recipe.data, model.recipe.train)
    expected = perplexity(model, feed.validation(), ReadOptions()).to_json()
    (loss,) = answer["perplexity"]["text"]
    assert loss["window"] is None
    for name in ("loss", "perplexity", "bits_per_byte", "tokens"):
        assert loss[name] == pytest.approx(expected[name], rel=1e-5)
    line = next(line for line in Run("text").metrics().lines if "val_loss" in line)
    assert loss["loss"] == pytest.approx(line["val_loss"], rel=1e-4)
    rows = [row for row in answer["by_position"] if row["run"] == "text"]
    assert [row["first"] for row in rows] == [1, 2, 4, 8, 16, 32, 64, 128] and rows[-1]["last"] == 128
    assert rows[5]["gain"] is not None and answer["cells"] == []


@pytest.mark.slow
def test_any_text_is_read_in_place_of_the_held_out_one(runs: Path) -> None:
    """The mean is that of the model's losses on the whole file as one document, its end included."""
    import torch

    import hybridkit

    other = runs / "other.txt"
    other.write_text("never seen before\n" * 4)
    answer = found("recall", "--text", "other.txt", "--text", "text.txt", "--context", "48")
    loss, again = answer["perplexity"]["recall"]
    assert (loss["source"], again["source"], loss["same_text"]) == ("other.txt", "text.txt", False)
    ids = torch.tensor([*other.read_bytes(), 256])
    model = hybridkit.load("recall")
    with torch.no_grad():
        rows = [ids[begin : begin + 33] for begin in range(0, len(ids) - 1, 32)]
        nats = [model(row[None, :-1], targets=row[None, 1:])[0].item() for row in rows]
    assert loss["tokens"] == len(ids) - 1 and loss["loss"] == pytest.approx(sum(nats) / (len(ids) - 1), rel=1e-5)
    assert {row["source"] for row in answer["by_position"]} == {"other.txt", "text.txt"}
    history = json.loads((runs / "recall" / "eval" / "results.json").read_text())
    assert len(history["perplexity"]["recall"]) == 2


@pytest.mark.slow
def test_needles_over_runs_windows_and_lengths(runs: Path) -> None:
    asked = ["--no-perplexity", "--needles", "niah_single_2", "--windows", "4,16", "--lengths"]
    answer = found("text", "recall", *asked, "1k,1200")
    assert len(answer["cells"]) == 2 * 2 * 2
    cell = answer["cells"][0]
    assert list(cell) == ["run", "task", "length", "window", "samples", "score", "low", "high", "unseen"]
    assert cell["samples"] == 3 and 0 <= cell["low"] <= cell["score"] <= cell["high"] <= 100
    assert "pydoc_data" in answer["settings"]["haystack"]["name"]
    prompts = [
        [json.loads(line)["input"] for line in file.read_text().splitlines()]
        for run in ("text", "recall")
        for file in sorted((runs / run / "eval" / "needles").glob("niah_single_2-1024-*.jsonl"))
    ]
    assert len(prompts) == 4 and all(one == prompts[0] and len(one) == 3 for one in prompts)
    folder = runs / "text" / "eval"
    assert json.loads((folder / "results.json").read_text())["cells"] == answer["cells"]
    page = (folder / "report.html").read_text()
    assert page.count("<svg") >= 3 and "Train window by test window" in page and "pydoc_data" in page
    assert not re.search(r"(src|href)=[\"'](?!#|data:)", page)
    assert "| task | run | window |" in (folder / "report.md").read_text()
    assert (folder / "train-test.png").stat().st_size and (folder / "length-window.svg").stat().st_size
    before = {file: file.stat().st_mtime_ns for file in folder.glob("needles/*")}
    again = found("text", *asked, "1k", "--out", str(runs / "again"))["cells"]
    assert again == [cell for cell in answer["cells"] if cell["run"] == "text" and cell["length"] == 1024]
    assert before == {file: file.stat().st_mtime_ns for file in folder.glob("needles/*")}
    narrow = found("text", *asked, "1k", "--precision", "bf16", "--out", str(runs / "narrow"))
    assert narrow["settings"]["precision"] == "bf16" and answer["settings"]["precision"] is None
    assert len([*folder.glob("needles/*")]) == len(before) + 2  # asked again, at both windows


@pytest.mark.slow
def test_recall_forcing_and_ablation(runs: Path) -> None:
    answer = found("recall", "--recall", "0,8", "--ablate", "mlstm", "--needles", "niah_single_1", "--lengths", "700",
                   "--score", "forced", "--windows", "8", "--out", str(runs / "out"))  # fmt: skip
    assert list(answer["perplexity"]) == ["recall", "recall without mlstm"]
    tasks = {(cell["run"], cell["task"]) for cell in answer["cells"]}
    kinds = ("recall_near", "recall_far", "niah_single_1 (forced)")
    assert tasks == {(run, kind) for run in answer["perplexity"] for kind in kinds}
    assert {cell["length"] for cell in answer["cells"] if cell["task"] == "recall_far"} == {0, 8}
    unseen = {(c["run"], c["task"], c["length"]): c["unseen"] for c in answer["cells"] if "far" in c["task"]}
    assert unseen == {  # one window of 8 is all that is left without the memory
        ("recall", "recall_far", 0): 0, ("recall", "recall_far", 8): 0,
        ("recall without mlstm", "recall_far", 0): 0, ("recall without mlstm", "recall_far", 8): 1,
    }  # fmt: skip
    depths = [row for row in answer["depths"] if row["run"] == "recall without mlstm"]
    assert depths and all(row["unseen"] == row["asked"] for row in depths)
    (note,) = [note for note in answer["notes"] if note.startswith("*")]
    assert "recall without mlstm at window 8: no path of the stack leads back more than 8 tokens" in note
    assert (runs / "out" / "recall.svg").exists() and not (runs / "out" / "needles").exists()


@pytest.mark.slow
def test_people_get_tables(runs: Path) -> None:
    result = call("recall", "--recall", "8", "--context", "64", "--out", str(runs / "tables"))
    assert result.exit_code == 0, result.output
    for part in ("Held-out text", "Loss by position", "Recall: accuracy", "tokens/s", "report.html"):
        assert part in result.stdout


BAD = {
    "needles nowhere": (["text", "--needles", "niah_singel_1"], "did you mean `niah_single_1`"),
    "lengths alone": (["text", "--lengths", "4k"], "name them, as in --needles"),
    "a size": (["text", "--needles", "all", "--lengths", "4x"], "--lengths 4x: 4x should be a whole number"),
    "a window of 0": (["text", "--windows", "0"], "at least 1"),
    "a short length": (["text", "--needles", "niah_single_1", "--lengths", "300"], "should be at least"),
    "no haystack": (["text", "--needles", "niah_single_2", "--haystack", "nowhere.txt"], "no such file"),
    "a short haystack": (
        ["text", "--needles", "niah_single_2", "--lengths", "9k", "--haystack", "text.txt"],
        "too few for the lengths",
    ),
    "no windows": (["plain", "--windows", "8"], "has a window"),
    "no run": (["nowhere"], "no such run folder"),
    "no checkpoint": (["empty"], "holds no valid checkpoint"),
    "damage": (["damaged"], "holds no valid checkpoint\n  step-1: "),
    "no recall": (["text", "--recall", "8"], "is trained on text"),
    "no such block": (["text", "--ablate", "mlstn"], "did you mean `mlstm`"),
    "a long context": (["text", "--context", "1M"], "has only"),
    "nothing": (["text", "--no-perplexity"], "nothing to measure"),
    "no such text": (["text", "--text", "texd.txt"], "--text texd.txt: "),
    "text of no file": (["text", "--text", "recall(pairs=2)"], "makes its own sequences"),
    "text for nothing": (["text", "--text", "text.txt", "--no-perplexity", "--recall", "8"], "--text is for"),
    "a list of contexts": (["text", "--context", "64,128"], "--context 64,128: should be one size"),
    "context for nothing": (["recall", "--context", "64", "--no-perplexity", "--recall", "8"], "--context is for"),
    "an empty ablation": (["text", "--ablate", ""], "--ablate: names no block"),
    "empty tasks": (["text", "--tasks", ","], "--tasks ,: has an empty item"),
    "an empty task": (["text", "--needles", "niah_single,"], "--needles niah_single,: has an empty item"),
    "a score for nothing": (["text", "--score", "forced"], "--score is for needle tasks"),
    "a haystack for nothing": (["text", "--haystack", "text.txt"], "--haystack is for needle tasks"),
    "a haystack of noise": (
        ["text", "--needles", "niah_single_1", "--lengths", "1k", "--haystack", "text.txt"],
        "hides nothing in essays",
    ),
    "no folder of tasks": (["text", "--tasks", "x", "--include", "nowhere"], "no such folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message_before_any_weights_are_read(
    case: str, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybridkit.evaluation.target.load_model", lambda run: pytest.fail("weights were read"))
    for name in ("empty", "damaged"):
        shutil.copytree(runs / "text", runs / name, dirs_exist_ok=True)
    shutil.rmtree(runs / "empty" / "checkpoints")
    for weights in (runs / "damaged" / "checkpoints").glob("*/model.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    words, message = BAD[case]
    result = call(*words)
    assert isinstance(result.exception, UserError) and message in str(result.exception), result.exception
    assert not result.stdout and os.getcwd() == str(runs)


def test_lengths_are_for_the_harness_too() -> None:
    from hybridkit.evaluation.words import read_request

    assert read_request(tasks="ruler", lengths="4k", perplexity=False).lengths == (4096,)
    assert read_request(tasks="arc_easy").lengths == () and read_request(needles="all").lengths[-1] == 128 << 10
