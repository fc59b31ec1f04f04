"""The configuration of a hybridkit model for transformers: the stack, entry by entry, with every size written out."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig


class HybridkitConfig(PreTrainedConfig):
    """`stack` holds one object an entry, in order.

    An entry has `norm` (pre, post, both or none), `mean` (whether branches are averaged behind norms of their own) and
    `branches`: blocks side by side, each with the name of its `block`, `in_scale`, `out_scale` and its own arguments.
    """

    model_type = "hybridkit"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012  # transformers' own way

    vocab_size: int = 257
    hidden_size: int = 256
    num_hidden_layers: int = 0  # mixers
    num_attention_heads: int = 4
    num_key_value_heads: int = 4
    head_dim: int = 64
    max_position_embeddings: int = 1 << 20
    stack: list[Any] | None = None
    norm_eps: float = 1e-6
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    logit_cap: float | None = None
    tie_word_embeddings: bool = False
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
