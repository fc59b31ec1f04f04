"""Every published recipe, scaled down: a run of it is exported as the class that published it, and comes back whole."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint import opened, run_of

import hybridkit
from hybridkit.hub.export import export_run
from hybridkit.hub.families.recurrent_gemma import rows
from hybridkit.hub.importing import import_folder
from hybridkit.recipe.files import read_recipe, shipped
from hybridkit.runs.run import Run

pytest.importorskip("transformers", reason="needs the hf extra")
pytestmark = pytest.mark.slow

FAMILIES = {
    "falcon-h1-0.5b": "falcon_h1", "gemma-3-4b": "gemma3_text", "gpt-oss-20b": "gpt_oss",
    "granite-4-h-tiny": "granitemoehybrid", "kimi-linear-48b-a3b": "kimi_linear", "lfm2-1.2b": "lfm2",
    "llama-3.2-1b": "llama", "mistral-7b": "mistral", "nemotron-h-8b": "nemotron_h", "nxai-xlstm-7b": "xlstm",
    "olmo-3-7b": "olmo3", "olmo-hybrid-7b": "olmo_hybrid", "qwen3-1.7b": "qwen3", "qwen3-next-80b-a3b": "qwen3_next",
    "recurrentgemma-2b": "recurrent_gemma",
}  # fmt: skip
FROM_ZERO = ("gemma3_text", "qwen3_next", "recurrent_gemma")
SMALL = {
    "heads": 8, "kv_heads": 2, "head": 8, "value": 8, "key_heads": 4, "rank": 12, "rope_head": 4, "groups": 2,
    "width": 48, "experts": 4, "active": 2,
}  # fmt: skip


def scaled_down(pattern: str) -> str:
    """Every size of a pattern at most that of SMALL, windows at most 8, and nothing more than twice."""
    pattern = re.sub(r"(\w+)=(\d+)\b", lambda m: f"{m[1]}={min(int(m[2]), SMALL.get(m[1], int(m[2])))}", pattern)
    pattern = re.sub(r"moe\(\d+, *\d+, *\d+", "moe(4, 2, 16", pattern)
    return re.sub(r"\*\d+", "*2", re.sub(r":\d+", ":8", pattern))


def options(name: str, model: dict[str, Any]) -> dict[str, Any]:
    """The `model:` section of a recipe, as small."""
    small = {**model, "width": 32, "heads": 4, "vocab": None}
    if said := model.get("ffn"):
        small["ffn"] = {key: min(SMALL.get(key, value), value) for key, value in said.items()}
    if name == "nxai-xlstm-7b":
        small |= {"width": 128, "heads": 2}  # queries and keys are half as wide
    if name == "recurrentgemma-2b":
        small["embedding_scale"] = rows(32)
    return small


@pytest.mark.parametrize("name", [one.removeprefix("published/") for one in shipped() if one.startswith("published/")])
def test_it_goes_out_as_its_class_and_comes_back(name: str, tmp_path: Path) -> None:
    """Sums of fp32 are made in another order, in up to 28 entries. A stack of delta rules amplifies the rounding:
    theirs and ours are both 7e-5 from their float64."""
    recipe = read_recipe(f"published/{name}").recipe
    model = options(name, recipe.model.model_dump(exclude_unset=True))
    run = run_of(scaled_down(recipe.pattern), tmp_path / "run", **model)
    made = export_run(run, tmp_path / "out")
    assert made.family == FAMILIES[name], made.reasons
    ours, ids = hybridkit.load(run), torch.randint(257, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, wanted = opened(tmp_path / "out")(ids).logits, ours(ids)[0]
    largest = 2e-4 if "[gdn" in ours.plan.pattern or "[kda" in ours.plan.pattern else 2e-5
    assert (found - wanted).abs().max() <= largest * wanted.abs().max()
    back = import_folder(tmp_path / "out", tmp_path / "back")
    assert back.pattern == ours.plan.pattern
    before, after = Run(run).weights(), Run(back.run).weights()
    assert before.keys() == after.keys()
    rounded = [name for name in before if not torch.equal(before[name], after[name])]
    if rounded:  # norms that multiply by 1 + w: fp32 has no w for every weight below one half
        assert FAMILIES[name] in FROM_ZERO and all("norm" in one for one in rounded)
        assert max(((before[one] - after[one]).abs().max() for one in rounded), default=0) <= 2**-25
