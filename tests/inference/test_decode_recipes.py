"""Every shipped recipe, scaled down: whole = chunked = step by step, with short windows and the recipe's own."""

import re

import pytest
import torch
from project import ROOT
from tiny import some_ids, tiny

from hybridkit.runs.run import load_recipe

SHIPPED = ROOT / "recipes"
RECIPES = [SHIPPED / "quickstart.yaml", *sorted(SHIPPED.glob("p*/*.yaml"))]
EXACT = {"rtol": 1e-9, "atol": 1e-9}  # logits of order 1 after some thousand float64 additions a token


def scaled() -> dict[tuple[str, int], str]:
    """One of each kind of entry of every recipe, with its heads and a narrow FFN: (pattern, heads) -> a recipe."""
    stacks = {}
    for path in RECIPES:
        recipe = load_recipe(str(path)).recipe
        once = re.sub(r"\*\d+", "", recipe.pattern)
        stacks[re.sub(r"(ffn\(width)=\d+", r"\1=48", once), recipe.model.heads] = path.stem
    return stacks


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize(("pattern", "heads"), scaled(), ids=scaled().values())
def test_every_recipe_reads_and_decodes_as_the_whole(pattern: str, heads: int) -> None:
    model, ids = tiny(pattern, heads=heads, width=4 * heads), some_ids(149)
    for window, chunk in ((None, 64), (5, 7)) if model.plan.has_windows else ((None, 64),):
        windows = model.fixed_windows(window) if window else None
        whole = model(ids, windows=windows)[0]
        context = model.prefill(ids[:, :133], window=window, chunk=chunk)
        torch.testing.assert_close(context.logits, whole[:, 132], **EXACT)
        states = model.reserve(context.states, 149)
        for place in range(133, 149):
            logits, states = model.step(ids[:, place], states)
            torch.testing.assert_close(logits, whole[:, place], **EXACT)
