"""This package's own format: weights as safetensors, sizes and layers as JSON, and the tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from hybridkit.block import Entry, window_of
from hybridkit.hub.family import Family
from hybridkit.model.model import Model
from hybridkit.runs.weights import weights_of


class Hybridkit(Family):
    """`model.safetensors`, `config.json` and, but for bytes, `tokenizer.json`."""

    def export(self, model: Model, folder: Path) -> None:
        save_file(weights_of(model), folder / "model.safetensors", metadata={"format": "pt"})
        config = json.dumps(config_of(model), indent=2) + "\n"
        (folder / "config.json").write_text(config, encoding="utf-8")
        assert model.tokenizer is not None
        model.tokenizer.save(folder)


def config_of(model: Model) -> dict[str, Any]:
    """Everything that another program needs to build the same model."""
    plan = model.plan
    return {
        "format": "hybridkit",
        "version": 2,  # 1: without embedding_scale
        "pattern": plan.pattern,
        "width": plan.dims.width,
        "heads": plan.dims.heads,
        "vocab": plan.dims.vocab,
        "tied": plan.config.tie,
        "embedding_scale": plan.config.row_scale,
        "logit_cap": plan.config.logit_cap,
        "norm_eps": plan.config.norm_eps,
        "tokenizer": model.recipe.data.tokenizer if model.recipe else None,
        "layers": [_entry(entry) for entry in plan.entries],
    }


def _entry(entry: Entry) -> dict[str, Any]:
    block, policy = entry.block, window_of(entry.block)
    arguments = block.model_dump(exclude={"window"}) if policy else block.model_dump()
    window = {"policy": str(policy), "largest": policy.largest} if policy else None
    return {"block": block.name(), "arguments": arguments, "window": window}
