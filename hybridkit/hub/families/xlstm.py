"""xLSTMForCausalLM (xLSTM-7B, arXiv 2503.13427): an mLSTM and a SwiGLU in every layer, logits capped."""

from __future__ import annotations

from typing import Any

from hybridkit.block import Block
from hybridkit.hub.calls import call
from hybridkit.hub.family import MOST_LAYERS, CannotSay, Described
from hybridkit.hub.fields import Fields
from hybridkit.hub.layered import Layered, Part, ffns, mixers, tie
from hybridkit.model.plan import Plan

MIXER = Part(
    "mlstm_layer",
    {
        "q": "q", "k": "k", "v": "v", "igate": "igate_preact", "fgate": "fgate_preact", "ogate": "ogate_preact",
        "norm": "multihead_norm", "out": "out_proj",
    },
)  # fmt: skip
FFN = Part("ffn", {"gate": "proj_up_gate", "up": "proj_up", "down": "proj_down"})
FIXED: dict[str, Any] = {  # of the config, at the values that our block has
    "use_bias": False, "norm_reduction_force_float32": True, "add_out_norm": True, "norm_eps": 1e-6, "eps": 1e-6,
    "qk_dim_factor": 0.5, "v_dim_factor": 1.0, "gate_soft_cap": 15.0, "weight_mode": "single",
}  # fmt: skip
RUNS: dict[str, Any] = {  # how transformers computes it, with states and sums in fp32 on any machine
    "chunkwise_kernel": "chunkwise--native_autograd", "sequence_kernel": "native_sequence__native",
    "step_kernel": "native", "mode": "inference", "chunk_size": 64, "return_last_states": True,
    "autocast_kernel_dtype": "float32", "inference_state_dtype": "float32", "max_inference_chunksize": 16384,
}  # fmt: skip

ROUNDED = 64  # its cache has keys and values for widths rounded up to multiples of this


class XLSTM(Layered):
    """xLSTM-7B: `mlstm*N` with `model.logit_cap`."""

    embedding = "backbone.embeddings.weight"
    last_norm = "backbone.out_norm.weight"
    layer = "backbone.blocks"
    mixer_norms = {"norm": "norm_mlstm"}
    ffn_norms = {"norm": "norm_ffn"}

    preference = 10
    model_type = "xlstm"
    architecture = "xLSTMForCausalLM"
    reads_padding = "its memory"
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

    def decoding_fault(self, plan: Plan) -> str | None:
        heads, width = mixers(plan, "mlstm")[0].heads, plan.dims.width  # type: ignore[attr-defined]
        for wide in (width // 2, width):
            if -(-wide // ROUNDED) * ROUNDED // heads != wide // heads:
                return f"transformers' cache rounds the width of all heads, {wide}, up to a multiple of {ROUNDED}"
        return None

    def config(self, plan: Plan) -> dict[str, Any]:
        cells, networks = mixers(plan, "mlstm"), ffns(plan, "ffn")
        if not plan.config.logit_cap:
            raise CannotSay("its logits are capped, and model.logit_cap is null")
        width, inner = plan.dims.width, networks[0].width  # type: ignore[attr-defined]
        return {
            **FIXED,
            **RUNS,
            "vocab_size": plan.dims.vocab,
            "hidden_size": width,
            "embedding_dim": width,
            "num_hidden_layers": len(cells),
            "num_blocks": len(cells),
            "num_heads": cells[0].heads,  # type: ignore[attr-defined]
            "ffn_round_up_to_multiple_of": inner,  # rounded up to one multiple of itself, exactly
            "ffn_proj_factor": inner / width / 2,
            "output_logit_soft_cap": plan.config.logit_cap,
            "tie_word_embeddings": self.tied(plan),
        }

    def parts(self, plan: Plan, block: Block) -> Part:
        return MIXER if block.is_mixer else FFN
