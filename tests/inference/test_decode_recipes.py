"""Every shipped recipe, scaled down: whole = chunked = step by step, with short windows and the recipe's own."""

import re

import pytest
import torch
from project import ROOT
from tiny import some_ids, tiny

from hybridkit.runs.run import load_recipe

SHIPPED = ROOT / "recipes"
# Those of recipes/published are decoded by tests/recipe/test_published.py.
RECIPES = [SHIPPED / "quickstart.yaml", *sorted(SHIPPED.glob("paper/*.yaml"))]
TOKENS = 149
EXACT = {"rtol": 1e-9, "atol": 1e-9}  # logits of order 1 after some thousand float64 additions a token


def scaled() -> dict[tuple[str, int], str]:
    """One of each kind of entry of every recipe, its FFN narrow, at most 16 heads: (pattern, heads) -> a recipe."""
    stacks = {}
    for path in RECIPES:
        recipe = load_recipe(str(path)).recipe
        once = re.sub(r"(?<=ffn\(width=)\d+", "48", re.sub(r"\*\d+", "", recipe.pattern))
        stacks[re.sub(r":([a-z]+\([^)]*\)|\d+)", largest, once), min(recipe.model.heads, 16)] = path.stem
    return stacks


def largest(policy: re.Match[str]) -> str:
    """The window outside training; no text here is longer than `TOKENS`, so that larger ones see as much."""
    return f":{min(TOKENS, max(map(int, re.findall(r'[0-9]+', policy[0]))))}"


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize(("pattern", "heads"), scaled(), ids=scaled().values())
def test_every_recipe_reads_and_decodes_as_the_whole(pattern: str, heads: int) -> None:
    model, ids = tiny(pattern, heads=heads, width=4 * heads), some_ids(TOKENS)
    for window, chunk in ((None, 64), (5, 7)) if model.plan.has_windows else ((None, 64),):
        windows = model.fixed_windows(window) if window else None
        whole = model(ids, windows=windows)[0]
        context = model.prefill(ids[:, :133], window=window, chunk=chunk)
        torch.testing.assert_close(context.logits, whole[:, 132], **EXACT)
        states = model.reserve(context.states, TOKENS)
        for place in range(133, TOKENS):
            logits, states = model.step(ids[:, place], states)
            torch.testing.assert_close(logits, whole[:, place], **EXACT)
