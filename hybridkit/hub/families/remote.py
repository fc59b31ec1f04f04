"""Remote code: a folder with its own modeling files, which transformers opens with `trust_remote_code=True`.

The files are those of `hybridkit/hub/modeling/`, copied as they are; they need torch and transformers alone. All are
copied, also those of blocks that the stack does not have, so that folders of the same name hold the same code.
What they compute is said in config.json, entry by entry.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import torch

from hybridkit.block import Block, Entry
from hybridkit.hub.calls import call, window
from hybridkit.hub.family import MOST_LAYERS, CannotSay, Described
from hybridkit.hub.fields import Fields
from hybridkit.hub.transformers_class import TransformersClass
from hybridkit.hub.weight_rules import Rule, rename
from hybridkit.model.model import Model
from hybridkit.model.plan import Plan
from hybridkit.runs.run import Run
from hybridkit.runs.weights import weights_of

_ROPE = ("theta", "scaling", "factor", "original", "fast", "slow", "truncate", "magnitude")
_ATTENTION = ("heads", "kv_heads", "head", "qk_norm", "gate", "sinks", "softcap", "scale", "bias", "rope", *_ROPE)
_DELTA = ("heads", "key_heads", "head", "value", "conv", "conv_bias", "allow_neg_eigval", "norm_eps")
_HIDDEN = ("act", "gated", "clip", "bias", "gate_scale")
KNOWN: dict[str, tuple[str, ...]] = {  # blocks, and the arguments of each, that the files compute
    "sa": _ATTENTION,
    "swa": _ATTENTION,
    "mla": ("heads", "head", "rank", "rope_head", "value_head", "q_rank", "scale", *_ROPE),
    "mlstm": ("heads",),
    "gdn": (*_DELTA, "gate"),
    "kda": (*_DELTA, "lower_bound", "low_rank", "gate_bias"),
    "mamba2": ("heads", "head", "state", "groups", "conv", "gate_norm", "bias", "conv_bias", "dt_min", "dt_max",
               "z_scale", "x_scale", "b_scale", "c_scale", "dt_scale"),
    "rglru": ("heads", "width", "conv"),
    "conv": ("kernel_size", "bias"),
    "ffn": ("width", *_HIDDEN),
    "moe": ("experts", "active", "width", "shared", "route", "normalize", "factor", "shared_gate", "groups",
            "active_groups", "correction", *_HIDDEN),
}  # fmt: skip
SERVERS = ("num_hidden_layers", "num_key_value_heads", "head_dim", "layer_types", "sliding_window")  # what they ask
NUMBERS = ("norm_eps", "embedding_scale", "residual_scale", "logit_scale")
CODE = "configuration_hybridkit", "modeling_hybridkit"


class Remote(TransformersClass):
    """Any stack of blocks that its files know, side by side too; opened with `trust_remote_code=True`."""

    preference = 1000
    model_type = "hybridkit"
    architecture = "HybridkitForCausalLM"
    scales_rows = True
    opened_by = TransformersClass.opened_by.replace('("{folder}")', '("{folder}", trust_remote_code=True)')

    def config(self, plan: Plan) -> dict[str, Any]:
        config = plan.config
        return {
            "auto_map": {
                "AutoConfig": f"{CODE[0]}.HybridkitConfig",
                "AutoModel": f"{CODE[1]}.HybridkitModel",
                "AutoModelForCausalLM": f"{CODE[1]}.HybridkitForCausalLM",
            },
            "vocab_size": plan.dims.vocab,
            "hidden_size": plan.dims.width,
            "num_hidden_layers": sum(entry.is_mixer for entry in plan.entries),
            "norm_eps": config.norm_eps,
            "embedding_scale": config.row_scale,
            "residual_scale": config.residual_scale,
            "logit_scale": config.logit_scale,
            "logit_cap": config.logit_cap,
            "final_logit_softcapping": config.logit_cap,  # its name for servers, which apply it themselves
            "tie_word_embeddings": config.tie,
            **_attention(plan),
            "stack": [_entry(entry, plan) for entry in plan.entries],
        }

    def layers(self, fields: Fields) -> Described:
        width, tied = fields.whole("hidden_size", most=1 << 20), fields.switch("tie_word_embeddings")
        stack = fields.take("stack")
        if not isinstance(stack, list) or not 1 <= len(stack) <= 2 * MOST_LAYERS:
            raise fields.wrong("stack", f"should be a list of 1 to {2 * MOST_LAYERS} entries")
        try:
            calls = [_call(entry) for entry in stack]
            means = {bool(entry["mean"]) for entry in stack if len(entry["branches"]) > 1}
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise fields.wrong("stack", f"an entry is not what hybridkit writes ({error})") from error
        if len(means) > 1:
            raise fields.wrong("stack", "all entries with branches should have the same `mean`")
        cap = fields.number("logit_cap") if fields.take("logit_cap") is not None else None
        fields.only("final_logit_softcapping", cap)
        fields.harmless("auto_map", *SERVERS)
        return Described(
            calls,
            {
                "width": width,
                "heads": fields.whole("num_attention_heads", most=1 << 16),
                "vocab": fields.whole("vocab_size"),
                "tie": tied,
                "ffn": None,
                "branches": "mean_norm" if True in means else "sum",
                **{name: fields.number(name) for name in NUMBERS},
                "logit_cap": cap,
            },
        )

    def rules(self, plan: Plan) -> list[Rule]:
        with torch.device("meta"):
            own = weights_of(Model(plan))
        return rename((name, "lm_head.weight" if name == "head.weight" else f"model.{name}") for name in own)

    def export(self, model: Model, run: Run, folder: Path, dtype: torch.dtype | None = None) -> None:
        super().export(model, run, folder, dtype)
        for file in resources.files("hybridkit.hub.modeling").iterdir():
            if file.name.endswith("_hybridkit.py"):
                (folder / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")


def _attention(plan: Plan) -> dict[str, Any]:
    """What servers ask of the attention, from its first block; for a stack without any, from the model."""
    blocks = [block.resolved(plan.dims) for entry in plan.entries for block in entry.branches]
    found = [block for block in blocks if block.name() in ("sa", "swa")]
    heads, kv_heads, head = (
        (getattr(found[0], name) for name in ("heads", "kv_heads", "head"))
        if found
        else (plan.dims.heads, plan.dims.heads, max(1, plan.dims.width // plan.dims.heads))
    )
    said = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head}
    sizes = {window(block) for block in found if window(block)}
    if len(sizes) == 1 and len(found) == sum(block.is_mixer for block in blocks):
        types = ["sliding_attention" if window(block) else "full_attention" for block in found]
        said |= {"layer_types": types, "sliding_window": sizes.pop()}
    return said


def _call(entry: Any) -> str:
    """An entry as a pattern says it. Raises various errors for one that is not as `_entry` makes it."""
    place = {} if entry["norm"] == "pre" else {"norm": entry["norm"]}
    return " | ".join(_branch({**branch, **place}) for branch in entry["branches"])


def _branch(said: dict[str, Any]) -> str:
    name, size = said.pop("block"), said.pop("window", None)
    if name not in KNOWN or any(not isinstance(value, str | int | float | None) for value in said.values()):
        raise ValueError(str(name)[:40])
    if size is not None and type(size) is not int:
        raise ValueError("window")
    return call(name, {key: said[key] for key in said if key.isidentifier()}, size)


def _entry(entry: Entry, plan: Plan) -> dict[str, Any]:
    mean = len(entry.branches) > 1 and plan.config.branches == "mean_norm"
    branches = [_block(block.resolved(plan.dims)) for block in entry.branches]
    return {"norm": entry.norm or plan.config.norm, "mean": mean, "branches": branches}


def _block(block: Block) -> dict[str, Any]:
    """The fields of a block for its modeling file; arguments without effect are left out. Raises CannotSay."""
    name = block.name()
    if name not in KNOWN:
        raise CannotSay(f"{name}: the modeling files know {', '.join(KNOWN)}")
    said = {field: getattr(block, field) for field in (*KNOWN[name], "in_scale", "out_scale")}
    usual = {field: type(block).model_fields[field].get_default() for field in said}
    kept = {field: value for field, value in said.items() if value != usual[field] or field in ("theta", "slow")}
    size = {"window": window(block)} if window(block) else {}
    return {"block": name, **kept, **size}
