"""One config from a recipe and from the keywords of `build`, with every option of the recipe's `model:` section."""

from dataclasses import fields
from pathlib import Path

import hybridkit
from hybridkit.model.config import ModelConfig
from hybridkit.model.loading import plan
from hybridkit.recipe.schema import Model
from hybridkit.runs.run import load_recipe

TEXT = """
pattern: [swa:8, mlstm]*2
model: {width: 32, heads: 2, vocab: 300, tie: true, logit_cap: 5.0}
"""


def test_every_option_of_a_recipe_is_one_of_the_config() -> None:
    assert set(Model.model_fields) <= {field.name for field in fields(ModelConfig)}


def test_build_and_a_recipe_describe_the_same_model(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(TEXT, encoding="utf-8")
    built = hybridkit.build("[swa:8, mlstm]*2", width=32, heads=2, vocab=300, tie=True, logit_cap=5.0)
    described = plan(load_recipe(str(recipe)))
    assert built.plan == described
    assert built.plan.config.ffn == described.config.ffn
