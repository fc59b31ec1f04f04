"""The shipped recipes: all compile on the meta device, and the paper's are as large as the paper says."""

import pytest

from hybridkit.model.config import ModelConfig
from hybridkit.model.plan import compile_pattern
from hybridkit.recipe.files import read_recipe, shipped


def test_shipped_recipes_load_and_the_papers_have_as_many_mixers_as_it_says() -> None:
    names = {name for name in shipped() if "/" in name}
    kinds = ["transformer", "xlstm", "local-global", "swa-128", "swax-stochastic", "swax-annealed"]
    kinds += [f"swax-{window}" for window in (128, 256, 512, 1024, 2048)]
    assert names >= {f"paper/{kind}-{size}" for kind in kinds for size in ("1.4b", "7b")}
    assert len(shipped()) == len({*shipped().values()}) + len(names), "two recipes share a name"
    for name in (name for name in names if not name.startswith("studies/")):  # those are spaces: tests/search
        recipe = read_recipe(name).recipe
        model = recipe.model
        plan = compile_pattern(recipe.pattern, ModelConfig.of(recipe, model.vocab or 257))
        mixers = sum(entry.is_mixer for entry in plan.entries)
        without = name == "published/nemotron-h-8b" or model.ffn is None
        assert mixers == len(plan.entries) / 2 or without, "every mixer has its FFN"
        if name.startswith("paper/"):
            assert mixers == (24 if name.endswith("1.4b") else 32)
            assert recipe.train.steps * recipe.train.batch_tokens == pytest.approx(150e9, rel=1e-4)
