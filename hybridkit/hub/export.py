"""A run for other programs: weights as safetensors, sizes and layers as JSON, and the tokenizer."""

import json
import os
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from hybridkit.block import Entry
from hybridkit.model.loading import load
from hybridkit.model.model import NORM_EPS, Model
from hybridkit.runs.weights import weights_of
from hybridkit.system.errors import UserError


def export_run(run: Path, folder: Path) -> list[Path]:
    """Write `model.safetensors`, `config.json` and, but for bytes, `tokenizer.json` to a new folder; the files' paths.

    Raises UserError where the folder exists already or the run has no valid checkpoint.
    """
    if os.path.lexists(folder):
        raise UserError(f"{folder} exists; name a new folder")
    model = load(run)
    folder.mkdir(parents=True)
    weights, config = folder / "model.safetensors", folder / "config.json"
    save_file(weights_of(model), weights, metadata={"format": "pt"})
    config.write_text(json.dumps(model_config(model), indent=2) + "\n", encoding="utf-8")
    assert model.tokenizer is not None
    model.tokenizer.save(folder)
    return sorted(folder.iterdir())


def model_config(model: Model) -> dict[str, Any]:
    """Everything that another program needs to build the same model."""
    plan = model.plan
    return {
        "format": "hybridkit",
        "version": 2,  # 1: without embedding_scale
        "pattern": plan.pattern,
        "width": plan.dims.width,
        "heads": plan.dims.heads,
        "vocab": plan.dims.vocab,
        "tied": plan.tie,
        "embedding_scale": plan.embedding_scale,
        "logit_cap": plan.logit_cap,
        "norm_eps": NORM_EPS,
        "tokenizer": model.recipe.data.tokenizer if model.recipe else None,
        "layers": [_entry(entry) for entry in plan.entries],
    }


def _entry(entry: Entry) -> dict[str, Any]:
    block = entry.block
    arguments = block.model_dump(exclude={"window"}) if entry.window else block.model_dump()
    window = {"policy": str(entry.window), "largest": entry.window.largest} if entry.window else None
    return {"block": block.name(), "arguments": arguments, "window": window}
