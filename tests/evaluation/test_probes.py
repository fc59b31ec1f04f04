"""Probes during training: their figures, their cost, and that training is what it is without them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from compare import untimed

import hybridkit as hk
from hybridkit.api.runs import load_given_recipe
from hybridkit.data.tokenizer import ByteTokenizer
from hybridkit.evaluation.probes import Probes
from hybridkit.model.loading import plan
from hybridkit.runs.run import Run
from hybridkit.system.errors import UserError

RECIPE: dict[str, Any] = {
    "pattern": "[swa:stoch(4,16,p=.5), mlstm]",
    "model": {"width": 16, "heads": 2},
    "data": {"source": "recall(pairs=2)", "sequence": 32},
    "train": {
        "steps": 6, "batch_tokens": 1024, "lr": 1e-2, "min_lr": 1e-2, "validate_every": 3, "checkpoint_every": 3,
        "precision": "fp32", "probe_share": 9.0,
        "probes": [
            {"every": 2, "recall": [8, 64], "windows": [4, 16], "samples": 12},
            {"every": 3, "write": "ab", "tokens": 5},
            {"every": 6, "write": "cd", "tokens": 5},
        ],
    },
}  # fmt: skip


def probe(**changes: Any) -> dict[str, Any]:
    return {**RECIPE, "train": {**RECIPE["train"], **changes}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> hk.TrainedRun:
    return hk.train(RECIPE, tmp_path_factory.mktemp("probes") / "run", quiet=True)


@pytest.mark.slow
def test_figures_stand_in_the_metrics_and_equal_those_of_an_evaluation(run: hk.TrainedRun) -> None:
    lines = [line for line in run.metrics if any(name.startswith("probe.") for name in line)]
    assert [line["step"] for line in lines] == [2, 4, 6]
    names = {f"probe.recall.{gap}.{window}" for gap in ("near", 8, 64) for window in (4, 16)} | {"recall_near"}
    assert all(names <= set(line) for line in lines)
    assert all(line["recall_near"] == line["probe.recall.near.4"] for line in lines)
    written = [(line["step"], line["written"]) for line in run.metrics if "written" in line]
    assert [step for step, _ in written] == [3, 6]
    model = hk.load(run)
    texts = [{"prompt": said, "text": model.write(said, tokens=5, temperature=0)} for said in ("ab", "cd")]
    assert written[-1][1] == texts
    found = hk.evaluate(run, perplexity=False, recall=[8, 64], windows=[4, 16], samples=12)["cells"]
    asked = {f"probe.recall.{c['length']}.{c['window']}": c["score"] / 100 for c in found if c["task"] == "recall_far"}
    assert {name: lines[-1][name] for name in asked} == pytest.approx(asked)


@pytest.mark.slow
def test_training_is_what_it_is_without_probes_and_resumes(run: hk.TrainedRun, tmp_path: Path) -> None:
    plain = hk.train(probe(probes=[]), tmp_path / "plain", quiet=True)
    steps = [line for line in untimed(Run(run.path)) if "loss" in line or "val_loss" in line]
    assert steps == untimed(Run(plain.path))
    hk.train(RECIPE, tmp_path / "parts", overrides={"train.steps": 3}, quiet=True)
    hk.train(RECIPE, tmp_path / "parts", resume=True, quiet=True)
    rest = [line for line in untimed(Run(tmp_path / "parts")) if line["step"] > 3]
    assert rest == [line for line in untimed(Run(run.path)) if line["step"] > 3]
    assert torch.equal(hk.load(tmp_path / "parts").embedding.weight, hk.load(run).embedding.weight)


def test_a_probe_may_end_training_and_name_the_best_checkpoint(tmp_path: Path) -> None:
    until = {"metric": "probe.recall.8.4", "at_least": 0.0}
    run = hk.train(probe(until=until, best="recall_near"), tmp_path / "run", quiet=True)
    assert run.checkpoints == [2]


@pytest.mark.slow
def test_needles_are_asked_as_an_evaluation_asks_them(tmp_path: Path) -> None:
    probes = [{"every": 2, "needles": "niah_single_1", "lengths": 900, "samples": 2}]
    recipe = probe(probes=probes, steps=2, probe_share=1000.0)
    run = hk.train(recipe, tmp_path / "run", quiet=True)
    assert run.metrics[-1] == {"step": 2, "probe.needles.niah_single_1.900.own": 0.0}


def test_their_share_of_the_flops_is_what_the_cost_model_says() -> None:
    """Recall of 2 pairs over 8 tokens reads 13; a step trains on 1024 tokens, three forward passes each."""
    loaded = load_given_recipe(probe(probes=[{"every": 10, "recall": [8], "samples": 100}]), {})
    described = plan(loaded)
    share = Probes(loaded).share(described)
    forward = {n: hk.costs(RECIPE, context=n)["flops_per_token"]["forward"] for n in (13, 32)}
    expected = (100 * 13 * forward[13] + 8192 * forward[32]) / (10 * 3 * 1024 * forward[32])
    assert share == pytest.approx(expected, rel=0.05)  # costs are means over windows; probes have the largest


def test_a_text_is_written_and_counted_at_every_window() -> None:
    recipes = [probe(probes=[{"every": 10, "write": "a", **more}]) for more in ({}, {"windows": [4, 16]})]
    loads = [load_given_recipe(recipe, {}) for recipe in recipes]
    one, two = (Probes(loaded).share(plan(loaded)) for loaded in loads)
    assert 2 * one == two > 0
    model = hk.build(RECIPE["pattern"], width=16, heads=2)
    model.tokenizer = ByteTokenizer()
    written = Probes(loads[1]).measure(10, False, model)["written"]
    assert [one["window"] for one in written] == [4, 16]


def test_recall_is_asked_of_a_part_of_a_mixture() -> None:
    """Near recall is that of the part alone, and of the first probe that asks for recall."""
    data = {**RECIPE["data"], "source": ["stdlib", "recall(pairs=2)"]}
    probes = [{"every": 1, "recall": gap, "windows": gap, "samples": 2} for gap in (4, 16)]
    mixed, alone = (Probes(load_given_recipe({**probe(probes=probes), **own}, {})) for own in ({"data": data}, {}))
    model = hk.build(RECIPE["pattern"], width=16, heads=2)
    assert mixed.measure(1, False, model) == (found := alone.measure(1, False, model))
    assert found["recall_near"] == found["probe.recall.near.4"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"probe_share": 0.001}, "train.probe_share allows 0.1%"),
        ({"probes": [{"every": 2}]}, "one of recall, needles and write"),
        ({"probes": [{"every": 2, "needles": "niah_single_1"}]}, "needles and lengths belong together"),
        ({"probes": [{"every": 2, "needles": "niah_sinlge", "lengths": 900}]}, "did you mean `niah_single`"),
        ({"probes": [{"every": 2, "recall": [2**40]}]}, "less than or equal"),
        ({"probes": [{"every": 2, "recall": 8}, {"every": 4, "recall": [8]}]}, r"measure probe\.recall\.8\.own"),
        ({"probes": [{"every": 2, "write": "a", "samples": 7}]}, "samples belongs to recall and needles"),
        ({"probes": [{"every": 2, "recall": 8, "tokens": 7}]}, "tokens belongs to write"),
        (
            {"probe_share": 1e9, "probes": [{"every": 2, "needles": "niah_single_1", "lengths": 64}]},
            "train.probes: niah_single_1 at length 64: .* lengths should be at least",
        ),
        ({"until": {"metric": "recall_far", "at_least": 1.0}}, "nothing measures recall_far; "),
        ({"best": "val_los"}, "did you mean `val_loss`"),
        ({"engine": "deepspeed", "zero": 3}, "train.zero of at most 2"),
    ],
)
def test_probes_that_make_no_sense_are_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        hk.train(probe(**changes), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_states_larger_than_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridkit.evaluation.probes.device_memory", lambda device: 1000)
    with pytest.raises(UserError, match=r"the states of 8 rows take .* ask over fewer tokens"):
        hk.train(probe(probe_share=1e9), tmp_path / "run", quiet=True)


def test_recall_needs_a_run_on_recall(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="recall asks runs on"):
        hk.train({**RECIPE, "data": {"source": "stdlib", "sequence": 32}}, tmp_path / "run", quiet=True)
