"""Values of the wrong type, everywhere a recipe, a pattern or a space takes one: our words, none of pydantic's."""

from pathlib import Path
from typing import Any

import pytest

from hybridkit.model.config import ModelConfig
from hybridkit.model.plan import compile_pattern
from hybridkit.recipe.files import read_recipe
from hybridkit.recipe.schema import leaves
from hybridkit.registry.kinds import BLOCK
from hybridkit.registry.registry import REGISTRY
from hybridkit.search.definition import read_definition
from hybridkit.search.pruners.halving import Halving
from hybridkit.search.schema import StudyFile, TrialSettings
from hybridkit.system.errors import UserError

VALUES = ("[]", "[1, x]", "{a: 1}", "{}", "x", "3.5", "-1", "true", "null", '""', "1" * 30)
NOT_OURS = ("pydantic", "Input ", "dictionary", "instance", "validation error", "type=", "valid ", "Settings", "tuple")


def plain(error: UserError) -> None:
    said = str(error)
    assert not [word for word in NOT_OURS if word in said], said


@pytest.mark.parametrize("key", [leaf.key for leaf in leaves() if leaf.key != "pattern"] + ["model", "train", "x.y"])
def test_recipes(key: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("pattern: sa\n", "utf-8")
    for value in VALUES:
        try:
            read_recipe(tmp_path / "r.yaml", [f"{key}={value}"])
        except UserError as error:
            plain(error)


@pytest.mark.parametrize("value", [1.5, "x", None, True, -1, 2**70])
@pytest.mark.parametrize("block", REGISTRY.names(BLOCK))
def test_arguments_of_blocks_and_of_the_ffn(block: str, value: Any) -> None:
    cls = REGISTRY.block(block)
    for name in (*(field for field in cls.model_fields if field != "window"), "foo"):
        for window in ("", ":8"):
            said = {None: "null", True: "true"}.get(value, f"{value}") if not isinstance(value, str) else f"{value}"
            try:
                compile_pattern(f"{block}({name}={said}){window}", ModelConfig(width=16, heads=2, vocab=257))
            except UserError as error:
                plain(error)
        try:
            compile_pattern("sa", ModelConfig(width=16, heads=2, vocab=257, ffn={"block": block, name: value}))
        except UserError as error:
            plain(error)


@pytest.mark.parametrize("section", ["", "trial", "pruner", "match"])
def test_spaces(section: str, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("pattern: sa\n", "utf-8")
    fields = {"": StudyFile, "trial": TrialSettings, "pruner": Halving}.get(section, StudyFile).model_fields
    for name in fields:
        for value in VALUES:
            line = f"{section}: {{{name}: {value}}}" if section else f"{name}: {value}"
            base = "" if name == "extends" and not section else "extends: base.yaml\n"
            space = "" if name in ("space", "patterns") and not section else "space: {train.lr: [1e-3, 1e-4]}\n"
            (tmp_path / "s.yaml").write_text(f"{base}{space}{line}\n", "utf-8")
            try:
                read_definition(tmp_path / "s.yaml")
            except UserError as error:
                plain(error)
