"""This package's own format: weights as safetensors, sizes and layers as JSON, recipe and tokenizer.

`hybridkit.load`, `generate` and `eval` open such a folder like a run (`hybridkit.runs.run`): it holds the run's recipe,
and a manifest that vouches for the weights.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from hybridkit.block import Block, Entry, said_window, window_of
from hybridkit.hub.family import Family
from hybridkit.hub.files import cast, write_json
from hybridkit.model.model import Model
from hybridkit.model.plan import Plan
from hybridkit.recipe.files import dump
from hybridkit.runs.manifest import NAME, WEIGHTS, sealed, stamp
from hybridkit.runs.plugin_copies import FOLDER
from hybridkit.runs.run import RUN_RECIPE, Run
from hybridkit.runs.weights import weights_of
from hybridkit.system.files import FILES


class Hybridkit(Family):
    """hybridkit's own: `model.safetensors`, `config.json`, `recipe.yaml`, `manifest.json`, the tokenizer."""

    opened_by = """\
import hybridkit

model = hybridkit.load("{folder}")
context = model.prefill("def ")
ids = [int(token) for token in model.generate(context, max_tokens=50)]
print(model.tokenizer.decode(ids).decode(errors="replace"))"""

    def check(self, plan: Plan) -> None:
        """Every plan can be said."""

    def export(self, model: Model, run: Run, folder: Path, dtype: torch.dtype | None = None) -> None:
        assert model.tokenizer and model.recipe
        weights = weights_of(model)
        FILES.tensors(
            folder / WEIGHTS, {name: cast(name, t, dtype or t.dtype).contiguous() for name, t in weights.items()}
        )
        write_json(folder / "config.json", config_of(model))
        (folder / RUN_RECIPE).write_text(dump(model.recipe), encoding="utf-8")
        model.tokenizer.save(folder)
        if (record := run.record()) and record.code:
            shutil.copytree(run.path / FOLDER, folder / FOLDER, symlinks=True)
        if record:
            files = {WEIGHTS: stamp(folder / WEIGHTS)}
            (folder / NAME).write_bytes(sealed(record.model_copy(update={"files": files})))


def config_of(model: Model) -> dict[str, Any]:
    """Everything that another program needs to build the same model."""
    plan = model.plan
    return {
        "format": "hybridkit",
        "version": 3,  # 1: without embedding_scale; 2: sizes that follow from others are null
        "pattern": plan.pattern,
        "width": plan.dims.width,
        "heads": plan.dims.heads,
        "vocab": plan.dims.vocab,
        "tied": plan.config.tie,
        "embedding_scale": plan.config.row_scale,
        "logit_cap": plan.config.logit_cap,
        "norm_eps": plan.config.norm_eps,
        **plan.config.stack_options(),
        "tokenizer": model.recipe.data.tokenizer if model.recipe else None,
        "layers": [_entry(entry, plan) for entry in plan.entries],
    }


def _entry(entry: Entry, plan: Plan) -> dict[str, Any]:
    if len(entry.branches) > 1:
        return {"branches": [_block(block, plan) for block in entry.branches]}
    return _block(entry.block, plan)


def _block(given: Block, plan: Plan) -> dict[str, Any]:
    block, policy = given.resolved(plan.dims), window_of(given)
    arguments = block.model_dump(exclude={"window"}) if policy else block.model_dump()
    window = {"policy": str(policy), "largest": said_window(policy.largest)} if policy else None
    return {"block": block.name(), "arguments": arguments, "window": window}
