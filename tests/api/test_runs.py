"""hybridkit from Python: what the verbs do, without a shell."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import hybridkit

import hybridkit as hk
from hybridkit.recipe.files import read_mapping
from hybridkit.system.errors import UserError
from hybridkit.training.callback import Callback

RECIPE: dict[str, Any] = {
    "pattern": "[swa:stoch(4,16,p=.5), mlstm]",
    "model": {"width": 16, "heads": 2},
    "data": {"source": "recall(pairs=2)", "sequence": 32},
    "train": {
        "steps": 6, "batch_tokens": 128, "lr": 1e-2, "validate_every": 2, "checkpoint_every": 2, "precision": "fp32",
        "ema": 0.5,
    },
}  # fmt: skip


def said(*words: str) -> dict[str, Any]:
    """What a verb prints as JSON."""
    done = hybridkit(*words, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class Counts(Callback):
    """How many steps it was told of."""

    steps = 0

    def on_step(self, line: Any, bits_per_byte: float | None) -> None:
        self.steps += 1


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> hk.TrainedRun:
    told = Counts()
    made = hk.train(RECIPE, tmp_path_factory.mktemp("api") / "a", callbacks=[told], quiet=True)
    assert told.steps == 6
    return made


@pytest.mark.slow
def test_a_run_shows_what_it_holds(run: hk.TrainedRun) -> None:
    assert [line["step"] for line in run.metrics if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert run.checkpoints == [2, 4, 6] and run.recipe["model"]["width"] == 16
    losses = {line["step"]: line["val_loss"] for line in run.metrics if "val_loss" in line}
    assert run.best == min(losses, key=losses.__getitem__)
    table = hk.frame(run)
    assert list(table.loc[6, "loss"].dropna()) == [run.metrics[-2]["loss"]]


def test_checkpoints_by_number_best_and_newest(run: hk.TrainedRun) -> None:
    first, newest, best, mean = (
        hk.load(run, *which, **more).embedding.weight
        for which, more in (((2,), {}), ((), {}), (("best",), {}), ((), {"average": True}))
    )
    assert torch.equal(newest, hk.load(run, "newest").embedding.weight)
    assert not torch.equal(first, newest) and not torch.equal(mean, newest)
    assert torch.equal(best, hk.load(run, run.best).embedding.weight)
    with pytest.raises(UserError, match="checkpoints of the steps 2, 4, 6"):
        hk.load(run, 3)
    with pytest.raises(UserError, match="a step, `best` or `newest`"):
        hk.load(run, "bets")


@pytest.mark.slow
def test_the_running_mean_of_the_weights_is_evaluated(run: hk.TrainedRun) -> None:
    files = [str(run.path), f"{run.path}, averaged weights"]
    own, mean = (hk.evaluate(run, average=average, context=32) for average in (False, True))
    losses = [found["perplexity"][name][0]["loss"] for found, name in zip((own, mean), files, strict=True)]
    validated = run.metrics[-1]["val_loss_ema"] - run.metrics[-1]["val_loss"]  # of fewer sequences
    assert losses[1] - losses[0] == pytest.approx(validated, rel=0.3)
    record = json.loads((run.path / "checkpoints/step-6/manifest.json").read_text())["files"]
    assert mean["origins"][files[1]]["weights"] == record["ema.safetensors"]["sha256"]


def test_a_model_writes(run: hk.TrainedRun) -> None:
    text = hk.load(run, 2).write("def ", tokens=12, seed=3)
    words = ["--tokens", "12", "--seed", "3", "--checkpoint", "2", "--json"]
    assert said("generate", str(run.path), "def ", *words)["replies"][0]["text"] == text
    with pytest.raises(UserError, match="no tokenizer"):
        hk.build("[sa]", width=16).write("a")


@pytest.mark.slow
def test_evaluation_gives_what_the_verb_prints(run: hk.TrainedRun) -> None:
    asked: dict[str, Any] = {"recall": [8, 64], "windows": [4, 16], "samples": 4, "reset_state": 4, "evict": 4}
    found = hk.evaluate(run, perplexity=False, checkpoint=4, **asked)
    words = [
        "--no-perplexity",
        "--recall",
        "8,64",
        "--windows",
        "4,16",
        "--samples",
        "4",
        "--reset-state",
        "4",
        "--evict",
        "4",
        "--checkpoint",
        "4",
        "--json",
    ]
    assert said("eval", str(run.path), *words)["cells"] == found["cells"]
    assert {cell["run"].removeprefix(str(run.path)) for cell in found["cells"]} == {
        "",
        ", states reset at 4",
        ", keys evicted at 4",
    }
    assert found["cells"] != hk.evaluate(run, perplexity=False, **asked)["cells"]
    with pytest.raises(UserError, match="leave --tasks out"):
        hk.evaluate(run, tasks=["arc_easy"], evict=[4])
    with pytest.raises(UserError, match="unknown option sample"):
        hk.evaluate(run, sample=3)
    with pytest.raises(UserError, match="did you mean `niah_single`"):
        hk.evaluate(run, needles="niah_singel")


def test_a_folder_of_runs_is_no_place_for_a_run(run: hk.TrainedRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a folder of runs \(a\), not the place of one; name a folder within it"):
        hk.train(RECIPE, run.path.parent, quiet=True)
    (tmp_path / "conversion.json").write_text("{}")
    with pytest.raises(UserError, match="a conversion whose last stage has not begun, not a place for a run"):
        hk.train(RECIPE, tmp_path, quiet=True)
    other = tmp_path / "etc"
    other.mkdir()
    (other / "link").symlink_to("nowhere")
    with pytest.raises(
        UserError, match=r"etc/link is a symbolic link, .*; .*etc holds no run: name another folder with"
    ):
        hk.train(RECIPE, other, quiet=True)  # it said: remove it


def test_costs_of_a_pattern_a_recipe_and_a_mapping() -> None:
    assert (
        hk.costs("swax-128-1.4b", context=16384)
        == said("flops", "swax-128-1.4b", "--context", "16k", "--json")["recipes"][0]
    )
    by_text, by_mapping = hk.costs("[swa:8]*2", width=64), hk.costs({"pattern": "[swa:8]*2", "model": {"width": 64}})
    assert by_text["params"] == by_mapping["params"] and by_text["layers"][0]["entry"] == "swa:8"


@pytest.mark.parametrize(
    ("recipe", "overrides", "said"),
    [
        ({"patern": "sa"}, {}, "did you mean .?pattern"),
        ({"pattern": "[sa, mlstn]"}, {}, "did you mean `mlstm`"),
        ({"pattern": "sa", "train": {"stpes": 3}}, {}, "steps"),
        ({"pattern": "sa"}, {"train.lr": "fast"}, "train.lr"),
        ({"pattern": "sa", "train": {"freeze": {3.10: 5}}}, {}, r"recipe.train.freeze: the key 3.1 should be text"),
        ({"pattern": "sa"}, {"train.freeze": {3.10: 5}}, r"in quotes: 3.10"),
        ({"pattern": "sa", "extends": "other.yaml"}, {}, "only a recipe in a file may have `extends`"),
    ],
)
def test_mistakes_in_a_mapping_are_told_in_words(recipe: dict[str, Any], overrides: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_mapping(recipe, overrides)


def test_a_mapping_needs_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="name the run's folder"):
        hk.train(RECIPE)
    with pytest.raises(UserError, match="no such run folder"):
        hk.TrainedRun("runs/none")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "build: width should be greater than or equal to 1"),
        ({"heads": 0}, "build: heads should be greater"),
        ({"vocab": 0}, "build: vocab should be greater"),
        ({"norm": "middle"}, "build: norm should be 'pre', 'post', 'both' or 'none'"),
        ({"branches": "mean"}, "build: branches should be 'sum' or 'mean_norm'"),
        ({"logit_cap": -1.0}, "build: logit_cap should be greater than 0"),
    ],
)
def test_options_out_of_range_are_refused_as_in_a_recipe(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        hk.build("[sa]", **options)
    with pytest.raises(UserError, match=message.replace("build: ", "model.")):
        hk.costs("[sa]", **options)


def test_a_name_of_a_block_and_of_a_recipe_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped recipe convert/gdn was costed for what was meant as a pattern."""
    with pytest.raises(UserError, match=r'gdn is a block and a recipe: say "\[gdn\]", or "convert/gdn"'):
        hk.costs("gdn", width=32)
    assert hk.costs("[gdn]", width=32)["params"] != hk.costs("convert/gdn", width=128)["params"]
    assert hk.costs("sa", width=32)["params"] == hk.costs("[sa]", width=32)["params"]
    monkeypatch.chdir(tmp_path)
    Path("sa").write_text("pattern: mlstm")
    with pytest.raises(UserError, match=re.escape(f'say "[sa]", or "{tmp_path.resolve()}/sa"')):
        hk.costs("sa", width=32)


def test_costs_need_a_context_of_a_token() -> None:
    with pytest.raises(UserError, match="context should be at least 1 token, not 0"):
        hk.costs("[sa]", context=0)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"context": -1}, "context: should be a whole number of at least 1, not -1"),
        ({"windows": [8, 0]}, "windows: should be a whole number of at least 1, not 0"),
        ({"recall": [-1]}, "gaps: should be a whole number of at least 0, not -1"),
        ({"samples": 0}, "samples: should be"),
        ({"scoring": "strict"}, "scoring: should be ruler or forced, not strict"),
        ({"device": "tpu"}, "device: should be auto or cpu or cuda, not tpu"),
    ],
)
def test_questions_out_of_range_are_refused(question: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        hk.evaluate("runs/none", **question)


@pytest.mark.parametrize("tie", ["no", "off", "yes", True, False])
def test_options_in_words_mean_the_same_to_build_and_costs(tie: Any) -> None:
    model = hk.build("sa", width=16, heads=2, vocab="1k", tie=tie)  # type: ignore[arg-type]
    counted = hk.costs("sa", width=16, heads=2, vocab="1k", tie=tie)["params"]["total"]
    assert sum(weight.numel() for weight in model.parameters()) == counted
    assert model.plan.config.vocab == 1024


@pytest.mark.parametrize(
    "call",
    [
        lambda: hk.build("sa", vocab=None),  # type: ignore[arg-type]
        lambda: hk.build(None),  # type: ignore[arg-type]
        lambda: hk.build(b"sa"),  # type: ignore[arg-type]
        lambda: hk.costs(None),  # type: ignore[arg-type]
        lambda: hk.costs(["sa"]),  # type: ignore[arg-type]
        lambda: hk.costs("sa*2", context="16k"),  # type: ignore[arg-type]
        lambda: hk.costs("sa*2", context=1.5),  # type: ignore[arg-type]
        lambda: hk.costs("sa*2", context=True),
        lambda: hk.costs({"pattern": "sa", "model": {"width": torch.ones(1)}}),
        lambda: hk.costs({"pattern": "sa", "model": (held := {"a": 1}) | {"b": held.setdefault("c", held)}}),
    ],
)
def test_what_is_wrong_in_a_call_is_told(call: Any) -> None:
    with pytest.raises(UserError):
        call()


@pytest.mark.parametrize(("question", "message"), [
    ({"perplexity": False}, "nothing to measure"), ({"lengths": 1024}, "--lengths is for needle tasks"),
    ({"windows": []}, "--windows: should name at least one"), ({"scoring": "forced"}, "--score is for needle tasks"),
    ({"haystack": Path("a.txt")}, "--haystack is for needle tasks"), ({"limit": 3}, "--include and --limit are for"),
    ({"perplexity": False, "recall": 4, "context": 64}, "--context is for"),
    ({"perplexity": False, "recall": 4, "text": "a.txt"}, "--text is for perplexity"),
])  # fmt: skip
def test_a_question_that_means_nothing_is_refused_as_on_the_command_line(question: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        hk.evaluate("runs/none", **question)
