"""One config from a recipe and from the keywords of `build`, with every option of the recipe's `model:` section."""

from dataclasses import fields
from pathlib import Path

import torch

import hybridkit
from hybridkit.model.config import ModelConfig
from hybridkit.model.loading import plan
from hybridkit.recipe.schema import ModelOptions
from hybridkit.runs.run import load_recipe

TEXT = """
pattern: [swa:8, mlstm]*2
model: {width: 32, heads: 2, vocab: 300, tie: true, logit_cap: 5.0}
"""


def test_every_option_of_a_recipe_is_one_of_the_config() -> None:
    assert set(ModelOptions.model_fields) <= {field.name for field in fields(ModelConfig)}


def test_build_and_a_recipe_describe_the_same_model(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(TEXT, encoding="utf-8")
    built = hybridkit.build("[swa:8, mlstm]*2", width=32, heads=2, vocab=300, tie=True, logit_cap=5.0)
    described = plan(load_recipe(str(recipe)))
    assert built.plan == described
    assert built.plan.config.ffn == described.config.ffn


def test_norms_and_rows_follow_the_options() -> None:
    """Also the norms of queries and keys: a change of eps that only one of them followed would be silent."""
    model = hybridkit.build("sa(qk_norm=true)", width=32, norm_eps=1e-2, embedding_scale=3)
    assert {part.eps for part in model.modules() if isinstance(part, torch.nn.RMSNorm)} == {1e-2}
    assert torch.equal(model.embedding(torch.tensor([[7]]))[0, 0], 3 * model.embedding.weight[7])
