"""xLSTMForCausalLM (xLSTM-7B, arXiv 2503.13427): an mLSTM and a SwiGLU in every layer, logits capped."""

from __future__ import annotations

from typing import Any

from hybridkit.hub.families._llama_like import tie
from hybridkit.hub.family import MOST_LAYERS, Described
from hybridkit.hub.fields import Fields
from hybridkit.hub.rules import Rule, names_below, rename
from hybridkit.hub.stack import CannotSay, call, one, pairs, plain, plain_model
from hybridkit.hub.transformers_class import TransformersClass
from hybridkit.model.plan import Plan

MIXER = {
    "q.weight": "q.weight", "k.weight": "k.weight", "v.weight": "v.weight",
    "igate.weight": "igate_preact.weight", "igate.bias": "igate_preact.bias",
    "fgate.weight": "fgate_preact.weight", "fgate.bias": "fgate_preact.bias",
    "ogate.weight": "ogate_preact.weight", "norm.weight": "multihead_norm.weight", "out.weight": "out_proj.weight",
}  # fmt: skip
FFN = {"gate.weight": "proj_up_gate.weight", "up.weight": "proj_up.weight", "down.weight": "proj_down.weight"}
FIXED: dict[str, Any] = {  # of the config, at the values that our block has
    "use_bias": False, "norm_reduction_force_float32": True, "add_out_norm": True, "norm_eps": 1e-6, "eps": 1e-6,
    "qk_dim_factor": 0.5, "v_dim_factor": 1.0, "gate_soft_cap": 15.0, "weight_mode": "single",
}  # fmt: skip
RUNS: dict[str, Any] = {  # how transformers computes it, with states and sums in fp32 on any machine
    "chunkwise_kernel": "chunkwise--native_autograd", "sequence_kernel": "native_sequence__native",
    "step_kernel": "native", "mode": "inference", "chunk_size": 64, "return_last_states": True,
    "autocast_kernel_dtype": "float32", "inference_state_dtype": "float32", "max_inference_chunksize": 16384,
}  # fmt: skip


class XLSTM(TransformersClass):
    """xLSTM-7B: `mlstm*N` with `model.logit_cap`."""

    preference = 10
    model_type = "xlstm"
    architecture = "xLSTMForCausalLM"
    defaults = {
        "vocab_size": 50304, "hidden_size": 4096, "num_hidden_layers": 32, "num_heads": 8, "ffn_proj_factor": 2.667,
        "ffn_round_up_to_multiple_of": 64, "output_logit_soft_cap": 30.0,
    }  # fmt: skip

    def layers(self, fields: Fields) -> Described:
        layers = fields.whole("num_hidden_layers", fields.take("num_blocks"), most=MOST_LAYERS)
        width, heads = (
            fields.whole("hidden_size", fields.take("embedding_dim"), most=1 << 20),
            fields.whole("num_heads"),
        )
        fields.only("num_blocks", layers)
        fields.only("embedding_dim", width)
        for name, value in FIXED.items():
            fields.only(name, value)
        fields.harmless(*RUNS)
        multiple, factor = fields.whole("ffn_round_up_to_multiple_of"), fields.number("ffn_proj_factor")
        if factor > 1 << 10:
            raise fields.wrong("ffn_proj_factor", "should be at most 1024")
        inner = (int(width * factor) + multiple - 1) // multiple * multiple
        options = {
            "width": width,
            "heads": heads,
            "vocab": fields.whole("vocab_size"),
            **tie(fields),
            "logit_cap": fields.number("output_logit_soft_cap"),
            "ffn": {"width": inner},
        }
        return Described([call("mlstm", {})] * layers, options)

    def config(self, plan: Plan) -> dict[str, Any]:
        plain_model(plan.config, "logit_cap")
        if not plan.config.logit_cap:
            raise CannotSay("its logits are capped, and model.logit_cap is null")
        if plan.config.norm_eps != FIXED["norm_eps"]:
            raise CannotSay(f"model.norm_eps is {plan.config.norm_eps:g}")
        stack = pairs(plan, ("mlstm",))
        for pair in stack:
            plain(pair.mixer, "heads", "igate_bias")
            plain(pair.ffn, "width")
        width, inner = plan.dims.width, one((pair.ffn.width for pair in stack), "the FFN's width")
        return {
            **FIXED,
            **RUNS,
            "vocab_size": plan.dims.vocab,
            "hidden_size": width,
            "embedding_dim": width,
            "num_hidden_layers": len(stack),
            "num_blocks": len(stack),
            "num_heads": one((pair.mixer.heads for pair in stack), "the mLSTM's heads"),
            "ffn_round_up_to_multiple_of": inner,  # rounded up to one multiple of itself, exactly
            "ffn_proj_factor": inner / width / 2,
            "output_logit_soft_cap": plan.config.logit_cap,
            "tie_word_embeddings": self.tied(plan),
        }

    def rules(self, plan: Plan) -> list[Rule]:
        found = [("embedding.weight", "backbone.embeddings.weight"), ("norm.weight", "backbone.out_norm.weight")]
        found += [] if self.tied(plan) else [("head.weight", "lm_head.weight")]
        for index in range(0, len(plan.entries), 2):
            block = f"backbone.blocks.{index // 2}"
            found += names_below(f"layers.{index}.mlstm", f"{block}.mlstm_layer", MIXER)
            found += names_below(f"layers.{index + 1}.ffn", f"{block}.ffn", FFN)
            found.append((f"layers.{index}.norm.weight", f"{block}.norm_mlstm.weight"))
            found.append((f"layers.{index + 1}.norm.weight", f"{block}.norm_ffn.weight"))
        return rename(found)
