"""A hybridkit model for transformers: a stack of entries, each a block or several side by side, and its cache.

B batch, T tokens of this call, D width, V vocabulary. With norms where `norm` says so, an entry computes

    x + residual_scale post(sum over branches of out_scale block(in_scale pre(x)))

A block is called with x, its state, which tokens are no padding, and positions; it returns outputs and its state
after them. Sliding windows and recurrent blocks hold states that stop growing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .attention_hybridkit import Attention
from .configuration_hybridkit import HybridkitConfig
from .conv_hybridkit import ShortConvolution
from .delta_hybridkit import GatedDeltaNet, KimiDeltaAttention
from .ffn_hybridkit import FeedForward
from .mamba2_hybridkit import Mamba2
from .mla_hybridkit import LatentAttention
from .mlstm_hybridkit import MLSTM
from .moe_hybridkit import MixtureOfExperts
from .rglru_hybridkit import RGLRU

BLOCKS: dict[str, Any] = {
    "sa": Attention,
    "swa": Attention,
    "mla": LatentAttention,
    "mlstm": MLSTM,
    "gdn": GatedDeltaNet,
    "kda": KimiDeltaAttention,
    "mamba2": Mamba2,
    "rglru": RGLRU,
    "conv": ShortConvolution,
    "ffn": FeedForward,
    "moe": MixtureOfExperts,
}


class HybridkitCache:
    """The states of all branches, in the order of the stack, each a tuple of tensors with the batch first."""

    is_compileable = False

    def __init__(self) -> None:
        self.states: list[tuple[Tensor, ...] | None] = []
        self.seen = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens that were read."""
        return self.seen

    def reorder_cache(self, rows: Tensor) -> None:
        """Rows of the batch in another order, as beam search asks."""
        self._change(lambda tensor: tensor.index_select(0, rows.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row so many times."""
        self._change(lambda tensor: tensor.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Some rows of the batch."""
        self._change(lambda tensor: tensor[indices])

    def nbytes(self) -> int:
        """Bytes of all states."""
        return sum(tensor.nbytes for state in self.states for tensor in state or ())

    def _change(self, change: Any) -> None:
        self.states = [state and tuple(map(change, state)) for state in self.states]


def not_served(stack: list[dict[str, Any]]) -> str | None:
    """What a server that holds keys and values by itself would compute wrongly; None for plain stacks of attention."""
    entries = [entry["branches"] for entry in stack]
    if any(len(branches) > 1 for branches in entries):
        return "it has blocks side by side"
    attention = []
    for (said,) in entries:
        if BLOCKS[said["block"]] is Attention:
            attention.append(said)
        elif said["block"] != "ffn":
            return f"it has {said['block']}"
    for name in ("sinks", "softcap"):
        if any(said.get(name) for said in attention):
            return f"its attention has {name}"
    if len({(said["heads"], said["kv_heads"], said["head"]) for said in attention}) > 1:
        return "heads differ between layers"
    if len({said["window"] for said in attention if said.get("window")}) > 1:
        return "it has windows of several sizes"
    return None


class Branch(nn.Module):
    """One of several blocks of an entry, with a norm behind it where branches are averaged."""


class Entry(nn.Module):
    """Norms, blocks and the residual sum. A single block's weights have its name, `swa.q.weight`; others `0.swa...`."""

    def __init__(self, config: HybridkitConfig, said: dict[str, Any], index: int) -> None:
        super().__init__()
        place, branches = said["norm"], said["branches"]
        norm = lambda: nn.RMSNorm(config.hidden_size, eps=config.norm_eps)  # noqa: E731
        self.norm = norm() if place in ("pre", "both") else nn.Identity()
        self.post_norm = norm() if place in ("post", "both") else nn.Identity()
        self.scale, self.mean = config.residual_scale, bool(said.get("mean"))
        share = len(branches) if self.mean else 1
        self.scales = [(one.get("in_scale", 1.0), one.get("out_scale", 1.0) / share) for one in branches]
        self.names = [one["block"] for one in branches]
        for place, one in enumerate(branches):
            holder = self
            if len(branches) > 1:
                holder = Branch()
                holder.add_module("norm", norm() if self.mean else nn.Identity())
                self.add_module(str(place), holder)
            holder.add_module(one["block"], BLOCKS[one["block"]](config, one, index))

    def forward(self, x: Tensor, states: list[Any], **given: Any) -> tuple[Tensor, list[Any]]:
        """Outputs (B, T, D), and the states of the branches after them."""
        normed, total, after = self.norm(x), None, []
        for place, (name, (before, behind), state) in enumerate(zip(self.names, self.scales, states, strict=True)):
            holder = self if len(self.names) == 1 else self.get_submodule(str(place))
            y, state = holder.get_submodule(name)(times(normed, before), state, **given)
            y = times(y if holder is self else holder.norm(y), behind)
            total = y if total is None else total + y
            after.append(state)
        return x + times(self.post_norm(total), self.scale), after


def times(x: Tensor, factor: float) -> Tensor:
    """x times a factor."""
    return x if factor == 1 else x * factor


def asked(said: bool | None, usual: bool | None) -> bool:
    """What a call says, or else the config."""
    return bool(usual if said is None else said)


def check_options(config: HybridkitConfig, cache: Any, options: dict[str, Any]) -> None:
    """Raises an error that names what callers of other models give and this one has no place for."""
    if cache is not None and not isinstance(cache, HybridkitCache):
        raise TypeError(f"past_key_values should be what a call with use_cache=True gave, not {type(cache).__name__}")
    if asked(options.pop("output_attentions", None), config.output_attentions):
        raise ValueError("output_attentions: the shares of attention are not kept")


class HybridkitPreTrainedModel(PreTrainedModel):
    """What both models share."""

    config_class = HybridkitConfig
    base_model_prefix = "model"
    _no_split_modules = ["Entry"]  # noqa: RUF012
    _is_stateful = True  # a state cannot be cut back to an earlier token
    _supports_sdpa = True
    _supports_attention_backend = True

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # generate() leaves the cache to `forward`


class HybridkitModel(HybridkitPreTrainedModel):
    """Embedding, stack and final norm."""

    def __init__(self, config: HybridkitConfig) -> None:
        super().__init__(config)
        if config._attn_implementation == "vllm" and (why := not_served(config.stack or [])):
            raise ValueError(f"vLLM's Transformers backend has no state for this stack: {why}")
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        kinds = [[BLOCKS[one["block"]] for one in entry["branches"]] for entry in config.stack or ()]
        mixers = [any(getattr(kind, "mixes", True) for kind in found) for found in kinds]
        places = [sum(mixers[:index]) for index in range(len(mixers))]
        entries = zip(config.stack or (), places, strict=True)
        self.layers = nn.ModuleList(Entry(config, entry, place) for entry, place in entries)
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embedding = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: HybridkitCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> BaseModelOutputWithPast | tuple[Any, ...]:
        """What the head reads, (B, T, D). `attention_mask` (B, tokens so far): 0 for padding.

        Hidden states, where asked for: what each entry reads, and what the head reads.
        """
        check_options(self.config, past_key_values, options)
        x = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        x = times(x, self.config.embedding_scale)
        use_cache = self.config.use_cache and not self.training if use_cache is None else use_cache
        cache = HybridkitCache() if past_key_values is None else past_key_values
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError("attention_mask should have two dimensions, (batch, tokens): 1 for tokens, 0 for padding")
        seen = None if attention_mask is None or bool(attention_mask.all()) else attention_mask
        if position_ids is None:
            position_ids = torch.arange(cache.seen, cache.seen + x.shape[1], device=x.device)[None]
        given = {"seen": seen, "positions": position_ids, **options}
        states, after = cache.states or [None] * sum(len(entry.names) for entry in self.layers), []
        keeps, hidden = asked(output_hidden_states, self.config.output_hidden_states), ()
        for entry in self.layers:
            hidden += (x,) if keeps else ()
            x, made = entry(x, states[len(after) : len(after) + len(entry.names)], **given)
            after += made
        if use_cache:
            cache.states, cache.seen = after, cache.seen + x.shape[1]
        x = self.norm(x)
        made = BaseModelOutputWithPast(x, cache if use_cache else None, (*hidden, x) if keeps else None)
        return made if asked(return_dict, self.config.return_dict) else made.to_tuple()


class HybridkitForCausalLM(HybridkitPreTrainedModel, GenerationMixin):
    """The model with its head."""

    _tied_weights_keys = {"lm_head.weight": "model.embedding.weight"}  # noqa: RUF012

    def __init__(self, config: HybridkitConfig) -> None:
        super().__init__(config)
        self.model = HybridkitModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.lm_head = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: HybridkitCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits (B, T, V), or of the last `logits_to_keep` tokens, and the loss where labels are given."""
        read = (input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache)
        found = self.model(*read, output_hidden_states, return_dict=True, **options)
        cut = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = times(self.lm_head(found.last_hidden_state[:, cut]), self.config.logit_scale)
        if (cap := self.config.logit_cap) is not None:
            logits = cap * torch.tanh(logits / cap)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **options)
        made = CausalLMOutputWithPast(loss, logits, found.past_key_values, found.hidden_states)
        return made if asked(return_dict, self.config.return_dict) else made.to_tuple()
