"""What a recipe may say: defaults, sizes, and that the documentation lists it all."""

import json
from pathlib import Path
from typing import Any

import pytest
from project import ROOT

from hybridkit.recipe.files import read_recipe
from hybridkit.recipe.schema import Data, Leaf, Model, Recipe, Train, leaves, read_size


def test_the_pattern_alone_is_a_recipe_and_has_the_documented_defaults(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("pattern: [swa:stoch(128,2048,p=.5), mlstm]*12")
    recipe = read_recipe(tmp_path / "r.yaml").recipe
    assert recipe == Recipe(pattern="[swa:stoch(128,2048,p=.5), mlstm]*12")
    assert recipe.model == Model(width=256, heads=4, vocab=None, tie=False, logit_cap=None, ffn={"block": "ffn"})
    assert recipe.data == Data(source="stdlib", tokenizer="bytes", sequence=1024, documents="reset", validation=0.02)
    said: dict[str, Any] = {"steps": 1000, "batch_tokens": 8192, "micro_batch": "auto", "lr": 1e-3, "min_lr": 1e-4}
    said |= {"warmup": 0.01, "schedule": "cosine", "weight_decay": 0.1, "betas": (0.9, 0.95), "clip": 1.0, "seed": 0}
    said |= {"engine": "local", "zero": 1, "offload": "none", "precision": "auto", "device": "auto", "compile": False}
    said |= {"recompute": False, "validate_every": 250, "checkpoint_every": 250, "keep": 3, "on_spike": "stop"}
    said |= {"sequence_parallel": 1, "from": None}
    assert recipe.train == Train.model_validate(said)


def test_sizes() -> None:
    assert [read_size(text) for text in ("7", "16k", "2M")] == [7, 16384, 2 * 1024**2]
    for text in ("", "k", "1K", "1.5k", "-1", "1e3", "1 k", "٣"):
        with pytest.raises(ValueError, match="whole number"):
            read_size(text)


def row(leaf: Leaf) -> str:
    """A field's line in docs/recipes.md."""
    default = "must be given" if leaf.info.is_required() else f"`{written(leaf.info.get_default())}`"
    return f"| `{leaf.key}` | {default} | {'no' if leaf.fixed else 'yes'} | {leaf.info.description} |"


def written(value: object) -> str:
    """A default as YAML writes it."""
    return json.dumps(value).replace('"', "")


def test_the_documentation_lists_every_field() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text()
    wanted = "\n".join(map(row, leaves()))
    assert wanted in text, f"docs/recipes.md should hold these lines:\n{wanted}"
