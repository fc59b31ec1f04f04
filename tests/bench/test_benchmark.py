"""`hybridkit bench`: its figures are figures, its parts are those of the pattern, and bad input is refused."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import outputs, reported
from fences import fences
from forked import COMMAND_LINE, forked

import hybridkit.bench.benchmark
from hybridkit.cost.flops import CostSettings, cost, forward_flops
from hybridkit.runs.run import load_recipe
from hybridkit.system.errors import UserError
from hybridkit.system.timing import medians

CPU = torch.device("cpu")
SMALL = ("--sequence", "64", "--batch", "2", "--repeat", "1")


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    file = tmp_path / "small.yaml"
    file.write_text("pattern: [swa:stoch(16,32), mlstm, sa]*2\nmodel: {width: 32}\ntrain: {precision: fp32}\n")
    return str(file)


def numbers(data: Any) -> Iterator[float]:
    if isinstance(data, dict | list):
        for value in data.values() if isinstance(data, dict) else data:
            yield from numbers(value)
    elif isinstance(data, int | float):
        yield data


@pytest.mark.slow
def test_every_figure_is_finite_and_positive_and_no_share_is_absurd(recipe: str) -> None:
    found = reported("bench", recipe, *SMALL)
    assert all(math.isfinite(figure) and figure > 0 for figure in numbers(found))
    assert found["passes"].keys() == {"forward", "training", "prefill", "decode"}
    assert all(0 < figures["mfu"] <= 1 for figures in found["passes"].values())
    assert all(0 < part["mfu"] <= 1 for part in found["parts"] if part["mfu"] is not None)
    assert all(0 < part["share"] < 2 for part in found["parts"])
    assert (found["sequence"], found["batch"], found["window"]) == (64, 2, None)


@pytest.mark.slow
def test_the_parts_are_the_distinct_layers_and_what_stands_around_them(recipe: str) -> None:
    parts = {part["part"]: part for part in reported("bench", recipe, *SMALL, "--window", "8")["parts"]}
    around = {"embedding", "norm, head, loss", "clipping, AdamW"}
    assert parts.keys() - around == {"swa:stoch(16,32)", "mlstm", "sa", "ffn"}
    assert {name: part["count"] for name, part in parts.items() if name not in around} == {
        "swa:stoch(16,32)": 2, "mlstm": 2, "sa": 2, "ffn": 6,
    }  # fmt: skip
    assert [parts[name]["window"] for name in ("swa:stoch(16,32)", "mlstm", "sa", "ffn")] == [8, None, None, None]


@pytest.mark.slow
def test_a_plugin_block_is_a_part_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "decay.py").write_text(fences("docs/blocks.md", "python")[0])
    (tmp_path / "mine.yaml").write_text("pattern: [decay, swa:8]\nmodel: {width: 32}\ntrain: {precision: fp32}\n")
    words = ("mine.yaml", "--sequence", "16", "--batch", "1", "--repeat", "1", "--plugin", "decay.py", "--json")
    ran = forked(COMMAND_LINE, "bench", *words, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    parts = {part["kind"]: part for part in json.loads(ran.stdout)["parts"]}
    assert parts.keys() >= {"decay", "swa", "ffn"} and parts["decay"]["seconds"] > 0


@pytest.mark.slow
def test_rates_follow_from_the_exact_counts(recipe: str) -> None:
    job = hybridkit.bench.benchmark.job("small", load_recipe(recipe, []), sequence=64, batch=2, window=8)
    passes = hybridkit.bench.benchmark.run_benchmark(job, 1)["passes"]
    forward = 2 * forward_flops(job.plan, 64, job.windows)
    prompt = 2 * cost(job.plan, CostSettings(64, window=8)).prefill
    for name, flops in {"forward": forward, "training": 3 * forward, "prefill": prompt}.items():
        assert passes[name]["flops_per_second"] * passes[name]["seconds"] == pytest.approx(flops)
        assert passes[name]["tokens_per_second"] * passes[name]["seconds"] == pytest.approx(128)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [["train.recompute=true"], ["train.precision=bf16"], ["data.documents=flow"]])
def test_it_measures_what_training_does(recipe: str, changes: list[str]) -> None:
    found = reported("bench", recipe, *changes, *SMALL)
    assert found["precision"] == ("bf16" if "train.precision=bf16" in changes else "fp32")


@pytest.mark.slow
def test_the_table_names_passes_parts_and_the_slowest(recipe: str) -> None:
    code, out, err = outputs("bench", recipe, *SMALL)
    assert code == 0 and err.count("measuring ") == len(err.splitlines()) == 4
    assert all(word in out for word in ("ceilings:", "training", "decode", "mlstm", "clipping, AdamW", "slowest: "))


@pytest.mark.slow
def test_a_run_folder_is_measured_as_its_recipe(recipe: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(Path(recipe).read_text())
    assert reported("bench", str(folder), *SMALL)["pattern"] == "[swa:stoch(16,32), mlstm, sa]*2"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["quickstart", "--sequence", "0"], "at least 1"),
        (["quickstart", "--sequence", "many"], "whole number"),
        (["quickstart", "--window", "0"], "at least 1"),
        (["xlstm-1.4b", "--window", "8"], "no block with a window"),
        (["quickstart", "--precision", "fp8"], "--precision"),
        (["quickstart", "--batch", "0"], "--batch"),
        (["quickstart", "--batch", "9999999"], "--batch"),
        (["quickstart", "--repeat", "0"], "--repeat"),
        (["quickstart", "--sequence", "1M", "--batch", "100000"], "GiB are free"),
        (["no-such-recipe"], "no-such-recipe"),
    ],
)
def test_bad_input_is_refused_with_exit_code_2(words: list[str], says: str) -> None:
    code, out, err = outputs("bench", *words)
    assert (code, out) == (2, "") and says in err and "Traceback" not in err


def test_the_default_is_a_micro_batch_of_training(recipe: str) -> None:
    job = hybridkit.bench.benchmark.job("small", load_recipe(recipe, ["data.sequence=256", "train.batch_tokens=1024"]))
    assert (job.sequence, job.batch, job.windows[0]) == (256, 4, 32)
    with pytest.raises(UserError, match="no block with a window"):
        hybridkit.bench.benchmark.job("small", load_recipe(recipe, ["pattern=[mlstm]"]), window=8)


def test_calls_take_turns_and_the_first_round_does_not_count() -> None:
    order: list[str] = []
    found = medians({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, CPU, repeat=2)
    assert order == ["a", "b"] * 3 and found.keys() == {"a", "b"}


PEAKS = """
import torch
from hybridkit.system.timing import Peak
peak = Peak(torch.device("cpu"))
with peak: torch.ones(2**26)
large = peak.bytes
with peak: pass
print(large, peak.bytes, peak.meaning)
"""


@pytest.mark.slow
def test_a_peak_is_of_its_own_block() -> None:
    """In a process that has not trained: one that has keeps the memory that it frees."""
    run = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, check=True, text=True)
    large, small, meaning = run.stdout.split(maxsplit=2)
    assert int(large) > 2**28
    assert int(small) < int(large) - 2**27 or "since it began" in meaning
