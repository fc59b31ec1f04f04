"""Models of hybridkit and of other libraries with the same shape; a training step of each, and a prefill.

Imported by `peers.py`, `training.py`, `decode.py` and `passes.py`. A step is forward, backward, clipping to norm 1 and
the fused AdamW of torch, on the same tokens; ours is the local engine, as `hybridkit train` runs it. Arithmetic is in
fp32 on a CPU, and in bf16 under autocast on a GPU, or as `--precision` says.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from hybridkit.data.batches import Batch
from hybridkit.inference.decode import prefill
from hybridkit.model.config import ModelConfig
from hybridkit.model.plan import compile_pattern
from hybridkit.recipe.schema import Train
from hybridkit.system.machine import DTYPES
from hybridkit.training.engines.local.engine import LocalEngine
from hybridkit.training.optimizer_state import parameter_groups
from hybridkit.training.optimizers.adamw import Adamw

VOCAB, HEADS, LEARNING_RATE = 257, 4, 1e-3
Step = Callable[[], object]
_chosen: str | None = None  # the precision


def precision(device: str) -> str:
    """Of both: the one that was chosen, else bf16 on a GPU, fp32 on a CPU."""
    return _chosen or ("bf16" if device == "cuda" else "fp32")


def choose(asked: str | None) -> None:
    """Have all that follows compute in this precision; None: in the device's own."""
    global _chosen
    _chosen = asked


def some_tokens(batch: int, tokens: int, device: str) -> Tensor:
    """Random ids (B, T) from a fixed seed."""
    return torch.randint(VOCAB, (batch, tokens), generator=torch.Generator().manual_seed(0)).to(device)


def our_engine(pattern: str, width: int, device: str, cap: float | None = None) -> LocalEngine:
    """The local engine with initial weights."""
    plan = compile_pattern(pattern, ModelConfig(width=width, heads=HEADS, vocab=VOCAB, logit_cap=cap))
    given: dict[str, Any] = {"device": device, "precision": precision(device)}
    return LocalEngine(plan, Train(**given))


def our_step(engine: LocalEngine, micro_batches: list[Tensor], window: int | None = None) -> Step:
    """One training step over micro-batches of ids (B, T): every token predicts the next."""
    batches = [Batch(ids, ids.roll(-1, 1), None, 0) for ids in micro_batches]
    windows = engine.model.plan.fixed_windows(window)
    num_targets = sum(ids.numel() for ids in micro_batches)

    def step() -> None:
        engine.gradients(batches, windows, num_targets)
        engine.update(LEARNING_RATE)

    return step


def in_both_ways(name: str, model: nn.Module) -> Mapping[str, nn.Module]:
    """A peer in each way to compute in the chosen precision: in bf16 under autocast, or with all weights in bf16.

    Which is faster differs from peer to peer; the faster is the one to compare with.
    """
    device = next(model.parameters()).device.type
    if precision(device) == "fp32":
        return {name: model}
    return {f"{name}, autocast": model, f"{name}, bf16 weights": copy.deepcopy(model).bfloat16()}


def their_steps(name: str, model: nn.Module, ids: Tensor) -> Mapping[str, Step]:
    """The same step of a transformers model, in each way."""
    return {way: their_step(each, ids) for way, each in in_both_ways(name, model).items()}


def autocast(model: nn.Module) -> torch.autocast:
    """Autocast to bf16, where that was chosen and the weights are not in bf16."""
    weight = next(model.parameters())
    enabled = precision(weight.device.type) == "bf16" and weight.dtype == torch.float32
    return torch.autocast(weight.device.type, torch.bfloat16, enabled=enabled)


def their_step(model: nn.Module, ids: Tensor) -> Step:
    """The same step of a transformers model; it shifts the targets itself."""
    model.train()
    optimizer = Adamw().build(parameter_groups(model, Train().weight_decay), Train(lr=LEARNING_RATE))

    def step() -> None:
        with autocast(model):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def their_xlstm(width: int, layers: int, device: str, mode: str) -> tuple[transformers.PreTrainedModel, str]:
    """transformers' xLSTM, by its native kernel, and our pattern of the same shape."""
    kernel = "bfloat16" if precision(device) == "bf16" else "float32"
    config = transformers.xLSTMConfig(
        vocab_size=VOCAB, hidden_size=width, num_hidden_layers=layers, num_heads=HEADS, use_cache=mode != "train",
        mode=mode, autocast_kernel_dtype=kernel,
    )  # fmt: skip
    theirs = transformers.xLSTMForCausalLM(config).to(device)
    return theirs, f"[mlstm, ffn(width={theirs.backbone.blocks[0].ffn.proj_up.out_features})]*{layers}"


def xlstm_pair(width: int, layers: int, device: str, mode: str = "train") -> tuple[LocalEngine, nn.Module]:
    """Ours, and transformers' xLSTM: in its training mode, all chunks of 64 in parallel."""
    theirs, pattern = their_xlstm(width, layers, device, mode)
    ours = our_engine(pattern, width, device, cap=theirs.config.output_logit_soft_cap)
    check_sizes(ours.model, theirs)
    return ours, theirs


def mistral_pair(width: int, layers: int, window: int, tokens: int, device: str) -> tuple[LocalEngine, nn.Module]:
    """Ours, and transformers' Mistral.

    On a CPU, Mistral uses SDPA with the window as a mask (T, T): it computes every pair, and is faster than its other
    implementation there. On a GPU it uses flash-attn where that is installed, which skips the pairs outside the window.
    """
    flash = device == "cuda" and find_spec("flash_attn") is not None
    ours = our_engine(f"[swa:{window}, ffn]*{layers}", width, device)
    inner = ours.model.get_submodule("layers.1.ffn.up").weight.shape[0]
    config = transformers.MistralConfig(
        vocab_size=VOCAB, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, sliding_window=window, max_position_embeddings=tokens,
        attn_implementation="flash_attention_2" if flash else "sdpa", use_cache=False,
    )  # fmt: skip
    theirs = transformers.MistralForCausalLM(config).to(device)
    check_sizes(ours.model, theirs)
    return ours, theirs


def our_prefill(engine: LocalEngine, ids: Tensor) -> Step:
    """Reading a prompt into a state; weights are cast once, as by `hybridkit generate --precision`."""
    model = copy.deepcopy(engine.model).to(DTYPES[precision(ids.device.type)]).requires_grad_(False).eval()
    return partial(prefill, model, ids)


def their_prefills(name: str, model: nn.Module, ids: Tensor) -> Mapping[str, Step]:
    """The same of a transformers model, with its cache, in each way; logits of the last token alone."""

    @torch.inference_mode()
    def run(each: nn.Module) -> object:
        with autocast(each):
            return each(input_ids=ids, use_cache=True, **({"logits_to_keep": 1} if keeps else {}))

    keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
    return {way: partial(run, each.eval()) for way, each in in_both_ways(name, copy.deepcopy(model)).items()}


def check_sizes(ours: nn.Module, theirs: nn.Module) -> None:
    """Both must have the same number of parameters."""
    sizes = [sum(p.numel() for p in model.parameters()) for model in (ours, theirs)]
    assert sizes[0] == sizes[1], f"ours has {sizes[0]:,} parameters, theirs {sizes[1]:,}"
