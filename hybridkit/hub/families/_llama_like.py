"""What Llama and its relatives share: attention with RoPE, SwiGLU, RMSNorm before both; only names differ from ours.

A family is a subclass that says which layers have a window or no positions, and how its config says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from hybridkit.hub.family import MOST_LAYERS, Described
from hybridkit.hub.fields import Fields
from hybridkit.hub.rules import Rule, names_below, rename
from hybridkit.hub.stack import CannotSay, Pair, call, one, pairs, plain, plain_model, window
from hybridkit.hub.transformers_class import TransformersClass
from hybridkit.model.plan import Plan

ATTENTION = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "o_proj"}
FFN = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
_KNOWN = ("heads", "kv_heads", "head", "theta", "qk_norm")  # arguments of attention that these classes say


class LlamaLike(TransformersClass):
    """A stack of attention and SwiGLU."""

    qk_norm: ClassVar[bool] = False  # each head of queries and keys has an RMSNorm
    common: ClassVar[Mapping[str, Any]] = {"hidden_act": "silu", "attention_dropout": 0.0}  # fields with one value

    def windows(self, fields: Fields, layers: int) -> list[int | None]:
        """The window of each layer."""
        return [None] * layers

    def turned(self, fields: Fields, layers: int) -> list[bool]:
        """Whether each layer has rotary positions."""
        return [True] * layers

    def say(self, windows: list[int | None], turned: list[bool]) -> dict[str, Any]:
        """The fields that say windows and positions. Raises CannotSay."""
        raise NotImplementedError

    def layers(self, fields: Fields) -> Described:
        layers = fields.whole("num_hidden_layers", most=MOST_LAYERS)
        width, heads = fields.whole("hidden_size", most=1 << 20), fields.whole("num_attention_heads", most=1 << 16)
        kv_heads, head = fields.whole("num_key_value_heads", heads), fields.whole("head_dim", max(1, width // heads))
        shared: dict[str, Any] = {} if kv_heads == heads else {"kv_heads": kv_heads}
        shared |= {} if head == width / heads else {"head": head}
        shared |= {"qk_norm": True} if self.qk_norm else {}
        for name, value in self.common.items():
            fields.only(name, value)
        theta = rope_theta(fields)
        each = zip(self.windows(fields, layers), self.turned(fields, layers), strict=True)
        calls = [call("swa" if w else "sa", {**shared, "theta": theta if turns else None}, w) for w, turns in each]
        return Described(
            calls, {**model_options(fields, width, heads), "ffn": {"width": fields.whole("intermediate_size")}}
        )

    def config(self, plan: Plan) -> dict[str, Any]:
        plain_model(plan.config)
        stack = pairs(plan, ("sa", "swa"))
        for pair in stack:
            plain(pair.mixer, *_KNOWN)
            plain(pair.ffn, "width")
        return {**self._sizes(plan, stack), **self.common, **self._layers(stack)}

    def _sizes(self, plan: Plan, stack: list[Pair]) -> dict[str, Any]:
        heads, kv_heads, head = (
            one((getattr(pair.mixer, name) for pair in stack), f"attention's {name}")
            for name in ("heads", "kv_heads", "head")
        )
        if one((pair.mixer.qk_norm for pair in stack), "qk_norm") != self.qk_norm:
            raise CannotSay(f"qk_norm is {str(not self.qk_norm).lower()}")
        return {
            **sizes(plan, self.tied(plan), len(stack)),
            "intermediate_size": one((pair.ffn.width for pair in stack), "the FFN's width"),
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head,
        }

    def _layers(self, stack: list[Pair]) -> dict[str, Any]:
        thetas = [pair.mixer.theta for pair in stack]
        theta = one([theta for theta in thetas if theta] or [10000.0], "theta")
        said = self.say([window(pair.mixer) for pair in stack], [theta is not None for theta in thetas])
        return {"rope_parameters": {"rope_theta": theta, "rope_type": "default"}, **said}

    def rules(self, plan: Plan) -> list[Rule]:
        found = [
            ("embedding.weight", "model.embed_tokens.weight"),
            ("norm.weight", "model.norm.weight"),
            *([] if self.tied(plan) else [("head.weight", "lm_head.weight")]),
        ]
        for index in range(0, len(plan.entries), 2):
            mixer, layer = plan.entries[index].block, f"model.layers.{index // 2}"
            ours = f"layers.{index}.{mixer.name()}"
            names = ATTENTION | ({"q_norm": "q_norm", "k_norm": "k_norm"} if self.qk_norm else {})
            found += names_below(ours, f"{layer}.self_attn", weights(names))
            found += names_below(f"layers.{index + 1}.ffn", f"{layer}.mlp", weights(FFN))
            found.append((f"layers.{index}.norm.weight", f"{layer}.input_layernorm.weight"))
            found.append((f"layers.{index + 1}.norm.weight", f"{layer}.post_attention_layernorm.weight"))
        return rename(found)


def weights(names: Mapping[str, str]) -> dict[str, str]:
    """Modules' names as those of their weights."""
    return {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in names.items()}


def model_options(fields: Fields, width: int, heads: int) -> dict[str, Any]:
    """The options of a recipe's `model:` section that all these classes say alike."""
    return {
        "width": width,
        "heads": heads,
        "vocab": fields.whole("vocab_size"),
        "norm_eps": fields.number("rms_norm_eps"),
        **tie(fields),
    }


def tie(fields: Fields) -> dict[str, Any]:
    """Whether embedding and head are one weight; these classes then do not scale it as input."""
    tied = fields.switch("tie_word_embeddings")
    return {"tie": tied, "embedding_scale": 1.0 if tied else None}


def sizes(plan: Plan, tied: bool, layers: int) -> dict[str, Any]:
    """The same options as fields of config.json."""
    return {
        "vocab_size": plan.dims.vocab,
        "hidden_size": plan.dims.width,
        "num_hidden_layers": layers,
        "rms_norm_eps": plan.config.norm_eps,
        "tie_word_embeddings": tied,
    }


def rope_theta(fields: Fields) -> float:
    """The base of the angles, from `rope_parameters` or from the older `rope_theta` and `rope_scaling`."""
    said = fields.take("rope_parameters") or fields.take("rope_scaling") or {}
    fields.harmless("rope_parameters", "rope_scaling", "rope_theta")
    name = "rope_parameters" if fields.take("rope_parameters") else "rope_scaling"
    if not isinstance(said, dict):
        raise fields.wrong(name, "should be an object")
    if said.get("rope_type", said.get("type", "default")) != "default":
        raise fields.wrong(name, "scaled positions are not known here")
    if strange := sorted(set(said) - {"rope_type", "type", "rope_theta"}):
        raise fields.wrong(name, f"{strange[0]} is not known here")
    theta = said.get("rope_theta", fields.take("rope_theta"))
    return Fields({"rope_theta": theta}, fields.origin).number("rope_theta")
