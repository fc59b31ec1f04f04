"""What a recipe may say: sizes, and that the documentation lists every field with its default."""

import json
from pathlib import Path

import pytest
from project import ROOT

from hybridkit.recipe.files import read_recipe
from hybridkit.recipe.schema import Leaf, leaves, read_size


def test_the_pattern_alone_is_a_recipe_and_every_section_may_be_left_empty(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("pattern: [swa:stoch(128,2048,p=.5), mlstm]*12")
    (tmp_path / "all.yaml").write_text("pattern: [swa:stoch(128,2048,p=.5), mlstm]*12\nmodel: {}\ndata: {}\ntrain: {}")
    assert read_recipe(tmp_path / "r.yaml").recipe == read_recipe(tmp_path / "all.yaml").recipe


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
