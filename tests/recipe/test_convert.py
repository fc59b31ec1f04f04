"""The section `convert`: presets and what a recipe changes of them, and mistakes at their place."""

from pathlib import Path

import pytest

from hybridkit.recipe.convert import Convert, stage_train
from hybridkit.recipe.files import dump, read_recipe
from hybridkit.recipe.presets import PRESETS
from hybridkit.recipe.schema import Recipe, Train
from hybridkit.system.errors import UserError

BEGIN = "pattern: [swa:4]\nconvert:\n"
WRONG = {
    "  preset: halos": ("3:11", "should name a preset (radlads, halo, xlstm; did you mean halo?)"),
    "  keep: first 2": ("3:9", "should be a list of mixers' numbers, from 0 on, or `last N`, or `auto N`"),
    "  keep: [0, -1]": ("3:9", "should be a list of mixers' numbers"),
    "  keep: last 2": ("3:3", "convert has no stage: name a preset (radlads, halo, xlstm), or give `stages`"),
    "  stages: [{steps: 3}]": ("3:12", "convert.stages.0.loss is missing: one of hidden, kl, ce"),
    "  stages: [{loss: kll}]": ("3:19", "kll: no such loss; did you mean kl?"),
    "  stages: [{loss: {kl: 1, hidden: 1}}]": ("3:19", "hidden does not add up with others"),
    "  stages: [{loss: {kl: 0}}]": ("3:19", "kl: the factor should be a number above 0"),
    "  stages: [{loss: hidden, train: all}]": ("3:34", "convert.stages.0.train should be `new` or left out"),
    "  stages: [{loss: ce, top_k: 4}]": ("3:30", "top_k is of the loss kl"),
    "  stages: [{loss: kl, cache: yes}]": ("3:30", "cache needs top_k"),
    "  stages: [{loss: kl, sequence: 1000}]": ("3:33", "batch_tokens should be a multiple of sequence, 1000, not 8192"),
    "  stages: [{loss: kl, lr: 1e-5, min_lr: 1e-4}]": ("3:41", "min_lr should be at most lr, 1e-05, not 0.0001"),
    "  stages: [{loss: kl, step: 3}]": ("3:23", 'convert.stages.0 has no "step"; did you mean "steps"?'),
    "  stages: [{loss: kl, name: A b}]": ("3:29", "convert.stages.0.name should be a letter and up to 31 letters"),
    "  stages: [{loss: kl}]\n  evaluate: {lengths: 1k}": ("4:13", "needles and lengths belong together"),
}


@pytest.mark.parametrize("text", WRONG)
def test_mistakes_are_pointed_at(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place, message = WRONG[text]
    Path("r.yaml").write_text(BEGIN + text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_recipe("r.yaml")
    assert str(caught.value).startswith(f"r.yaml:{place}: ") and message in str(caught.value)


def convert(**said: object) -> Convert:
    recipe = Recipe.model_validate({"pattern": "[swa:4]", "convert": said})
    assert recipe.convert
    return recipe.convert


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_whole_and_written_recipes_say_the_same(preset: str, tmp_path: Path) -> None:
    recipe = Recipe.model_validate({"pattern": "[swa:4]", "convert": {"preset": preset}})
    assert recipe.convert and all(stage.loss and stage.steps for _, stage in recipe.convert.all_stages)
    (tmp_path / "r.yaml").write_text(dump(recipe), encoding="utf-8")
    again = read_recipe(tmp_path / "r.yaml").recipe
    assert again.convert and again.convert.all_stages == recipe.convert.all_stages


def test_stages_change_a_preset_by_place_and_zero_steps_leave_one_out() -> None:
    made = convert(preset="radlads", stages=[{"steps": 0}, {"steps": 7, "lr": 3e-4}, {}, {"loss": "ce", "steps": 2}])
    assert [at for at, _ in made.all_stages] == [1, 2, 3]
    (_, second), (_, third), _ = made.all_stages
    assert (second.steps, second.lr, second.sequence, second.losses) == (7, 3e-4, 512, {"kl": 1.0})
    assert third.sequence == 16384 and third.trains == "all" and third.title == "ce"


def test_a_rate_without_its_own_last_rate_falls_by_the_same_share() -> None:
    _, stage = convert(stages=[{"loss": "kl", "lr": 2e-4}]).all_stages[0]
    assert stage_train(stage, Train(lr=1e-3, min_lr="10%"), 0) == {"lr": 2e-4, "min_lr": pytest.approx(2e-5)}
