"""What a recipe may ask of training beside a rate: a mean of the weights, parts that are frozen, an early end."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from compare import assert_same
from told import Go

import hybridkit
from hybridkit.model.loss import linear_cross_entropy
from hybridkit.recipe.schema import Train
from hybridkit.runs.manifest import AVERAGE
from hybridkit.runs.run import Run, load_recipe
from hybridkit.runs.weights import read_tensors
from hybridkit.system.errors import UserError
from hybridkit.system.notices import listening
from hybridkit.training.estimate import estimate
from hybridkit.training.freeze import check_freeze, frozen
from hybridkit.training.schedule import learning_rate


@pytest.mark.parametrize("cap", [None, 4.0])
def test_the_gradient_has_the_z_loss_and_the_loss_has_not(cap: float | None) -> None:
    torch.manual_seed(0)
    x, weight = (torch.randn(*size, dtype=torch.float64, requires_grad=True) for size in ((5, 3), (7, 3)))
    targets = torch.tensor([1, -100, 3, 0, 6])
    found = linear_cross_entropy(x, weight, targets, cap, 0.3)
    torch.testing.assert_close(found, linear_cross_entropy(x, weight, targets, cap))
    logits = (x @ weight.T)[targets >= 0]
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    norm = logits.logsumexp(1)
    plain = (norm - logits.gather(1, targets[targets >= 0, None])[:, 0]).sum() + 0.3 * (norm**2).sum()
    for have, want in zip(*(torch.autograd.grad(loss, (x, weight)) for loss in (found, plain)), strict=True):
        torch.testing.assert_close(have, want)


def test_a_share_of_the_rate_is_the_last_rate() -> None:
    train = Train(steps=10, lr=2e-3, min_lr="5%")
    assert learning_rate(9, train) == pytest.approx(1e-4)


@pytest.mark.slow
def test_a_mean_of_the_weights_is_kept_validated_and_resumed(go: Go, tmp_path: Path) -> None:
    run, parts = Run(tmp_path / "run"), Run(tmp_path / "parts")
    words = ["train.ema=.75", "train.checkpoint_every=1", "train.keep=9", "train.steps=6", "train.validate_every=3"]
    go(run.path, *words)
    folders = [checkpoint.folder for checkpoint in reversed(list(run.checkpoints()))]
    weights = [read_tensors(folder / "model.safetensors") for folder in folders]
    means = [read_tensors(folder / AVERAGE) for folder in folders]
    for before, after, now in zip(means, means[1:], weights[1:], strict=False):
        for name in now:
            torch.testing.assert_close(after[name], 0.75 * before[name] + 0.25 * now[name])
    validated = [line for line in run.metrics().lines if "val_loss" in line]
    assert all(line["val_loss_ema"] != line["val_loss"] for line in validated) and len(validated) == 2
    go(parts.path, *words[:3], "train.steps=3", "train.validate_every=3", "train.min_lr=1e-2")
    go(parts.path, *words[:3], "train.steps=6", "train.validate_every=3", "train.min_lr=1e-2", resume=True)
    go(tmp_path / "whole", *words, "train.min_lr=1e-2")
    assert_same(parts, Run(tmp_path / "whole"))


def test_what_is_frozen_keeps_its_weights_until_its_step(go: Go, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    words = ["train.checkpoint_every=1", "train.keep=9", "train.steps=4", "train.validate_every=99"]
    go(run.path, *words, "train.freeze={mlstm: .5, 0: 3}")
    weights = [read_tensors(c.folder / "model.safetensors") for c in reversed(list(run.checkpoints()))]
    for name in weights[0]:
        changed = [not torch.equal(before[name], after[name]) for before, after in pairwise(weights)]
        if name.startswith("layers.2."):
            assert changed == [False, True, True], name
        elif name.startswith("layers.0."):
            assert changed == [False, False, True], name
        else:
            assert changed == [True, True, True], name


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("train.freeze={mlstn: .5}", "did you mean `mlstm`"),
        ("train.freeze={9: .5}", "entries 0 to 3"),
        ("train.freeze={mlstm: 1.5}", "a whole number of steps"),
        ("train.freeze={mlstm: 1.0}", "one step or the whole run"),
        ("train.until={metric: val_loss}", "one bound"),
        ("train.min_lr=10", "at most train.lr"),
        ("train.min_lr=ten", "a share of train.lr such as 10%"),
        ("train.ema=1", "less than 1"),
    ],
)
def test_what_makes_no_sense_is_refused(go: Go, tmp_path: Path, word: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        go(tmp_path / "run", word)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_training_stops_where_a_figure_is_reached(go: Go, tmp_path: Path) -> None:
    run, until = Run(tmp_path / "run"), "train.until={metric: val_loss, at_most: 100}"
    told = go(run.path, until)
    assert run.newest().checkpoint.step == 5 and any(
        "train.until is met: val_loss is" in said for said in told.messages
    )
    assert any(
        "finished: train.until was met after step 5" in said for said in go(run.path, until, resume=True).messages
    )
    go(run.path, "train.until={metric: val_loss, at_most: .01}", resume=True)
    assert run.newest().checkpoint.step == 12


@pytest.mark.slow
def test_the_best_checkpoint_stays(go: Go, tmp_path: Path) -> None:
    """At a rate that is far too high for the last steps, an early checkpoint is the best."""
    run = Run(tmp_path / "run")
    words = ["train.best=val_loss", "train.keep=1", "train.checkpoint_every=1", "train.validate_every=1"]
    go(run.path, *words, "train.steps=8", "train.lr=8", "train.min_lr=8", "train.spike=1000")
    losses = {line["step"]: line["val_loss"] for line in run.metrics().lines if "val_loss" in line}
    best = min(losses, key=losses.__getitem__)
    assert {checkpoint.step for checkpoint in run.checkpoints()} == {best, 8} and best < 8


@pytest.mark.slow
def test_a_mixture_trains_resumes_and_is_validated_by_name(go: Go, text: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"{name} text of its own\n" * 60)
    parts = f"{{source: {text}, weight: .7}}, {{source: {tmp_path}/a.txt, weight: .2, name: a}}"
    mixture = f"data.source=[{parts}, {{source: {tmp_path}/b.txt, weight: .1, name: b}}]"
    run, parts_run = Run(tmp_path / "run"), Run(tmp_path / "parts")
    words = [mixture, "train.min_lr=1e-2", "train.best=val_loss.b", "train.validate_every=4"]
    go(run.path, *words)
    line = next(line for line in run.metrics().lines if line["step"] == 12)
    given = [line[f"tokens.{name}"] for name in (text, "a", "b")]
    assert sum(given) == line["tokens"] == 12 * 128 and given[0] > given[1] > given[2] > 0
    last = run.metrics().lines[-1]
    assert {f"val_loss.{name}" for name in (text, "a", "b")} < set(last)
    shares = zip((0.7, 0.2, 0.1), (last[f"val_loss.{name}"] for name in (text, "a", "b")), strict=True)
    assert last["val_loss"] == pytest.approx(sum(share * loss for share, loss in shares))
    go(parts_run.path, *words, "train.steps=5")
    go(parts_run.path, *words, resume=True)
    assert [line for line in parts_run.metrics().lines if line["step"] > 5 and "loss" in line][-1]["loss"] == line[
        "loss"
    ]
    with pytest.raises(UserError, match="source"):
        go(run.path, *words[1:2], resume=True)


def test_branches_are_frozen_by_their_index_or_block() -> None:
    plan = hybridkit.build("[swa:4 | mlstm, swa:4]", width=16, heads=2).plan
    check_freeze(plan, {"0.1": 3, "swa": 0.5, "2": 4}, 10)
    assert frozen(plan, {"0.1": 3, "swa": 0.5}, 2, 10) == {"layers.0.1.", "layers.0.0.", "layers.2."}
    assert frozen(plan, {"0": 3}, 2, 10) == {"layers.0."} and not frozen(plan, {"0": 3}, 3, 10)
    with pytest.raises(UserError, match="entries 0 to 3"):
        check_freeze(plan, {"0.2": 3}, 10)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("train.freeze={gdn: .5}", "train.freeze: no gdn in the model"),
        ("train.freeze={'9': 1}", "train.freeze: 9: the stack has entries 0 to 3"),
        ("train.until={metric: val_lss, at_most: 1}", "train.until: nothing measures val_lss"),
        ("train.best=x", "train.best: nothing measures x"),
        ("rules=1", "rules: 1: training follows rules"),
        ("data.source=recall(pairs=40)", "40 pairs of distinct keys"),
        ("data.source=stdlib(3)", "stdlib takes at most 0 arguments"),
        ("data.source=[stdlib, 'recall(pairs=40)']", r"40 pairs of distinct keys[\s\S]*\(part recall"),
        ("data.validation=recall(pairs=40)", "data.validation:1:8: 40 pairs"),
        ("data.source=recall(pairs=9,far=.5)", "data.sequence: .* needs sequences of at least 36 tokens, not 32"),
        ("data={source: recall, tokenizer: train(300), sequence: 32}", "data.tokenizer: recall makes its own bytes"),
    ],
)
def test_a_dry_run_refuses_what_training_refuses(asked: str, said: str, recipe: Path, go: Go, tmp_path: Path) -> None:
    _refused_by_both(asked, said, recipe, go, tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("model.width=32", r"embedding.weight is \[257, 16\] there, and \[257, 32\]"),
        ("pattern=[mlstm]", "layers.0.mlstm"),
    ],
)
def test_a_dry_run_refuses_weights_of_other_shapes(
    change: str, said: str, whole: Run, recipe: Path, go: Go, tmp_path: Path
) -> None:
    _refused_by_both(change, said, recipe, go, tmp_path, f"train.from={whole.path}")


def test_a_dry_run_refuses_a_logger_that_is_not_installed(
    recipe: Path, go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybridkit.training.loggers.wandb.find_spec", lambda name: None)
    _refused_by_both("train.log=wandb", "wandb is not installed", recipe, go, tmp_path)


def test_compiling_for_a_cpu_needs_a_compiler(
    recipe: Path, go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was a traceback, half a minute later."""
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    _refused_by_both("train.compile=true", "train.compile: .*, and torch finds none here", recipe, go, tmp_path)


def _refused_by_both(asked: str, said: str, recipe: Path, go: Go, tmp_path: Path, *more: str) -> None:
    """With the same words, and without a folder."""
    with pytest.raises(UserError, match=said) as trained:
        go(tmp_path / "run", asked, *more)
    with pytest.raises(UserError) as estimated:
        estimate(load_recipe(recipe, [asked, *more]), 1)
    assert str(trained.value) == str(estimated.value)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_says_which_texts_are_not_there(recipe: Path) -> None:
    """A shipped recipe names text that is to be replaced, and its cost can be had without any."""
    heard: list[str] = []
    with listening(heard.append):
        estimate(load_recipe(recipe, ["data.source=[stdlib, nowhere/*.txt]", "data.validation=gone.txt"]), 1)
    assert len(heard) == 2 and "nowhere/*.txt' here" in heard[0] and "(part nowhere/*.txt of" in heard[0]
    assert heard[1].startswith("data.validation: ") and "gone.txt" in heard[1]
