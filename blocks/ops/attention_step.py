"""One token of attention between its projections, for decoding: in torch anywhere, on a GPU as two kernels.

From q, k, v, and the output gate where there is one, as projected: rotates q and k to the token's position, attends to
the ring and the token itself, and writes k and v into the ring. Equations: attention.py, scores.py and rope.py.

The kernels (cuda/attention_step.py) run as kernel_gate.py says, and never in float64. They are one operator of
torch.library, which a CUDA graph and torch.compile take as it is.

Letters: B batch, H heads, K key-value heads, E width of a head, R its turning channels, S slots of the ring.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hybridkit.block import State, StepFunction, packed
from hybridkit_blocks.ops import kv_cache
from hybridkit_blocks.ops.attend import decode
from hybridkit_blocks.ops.cpu.attention_step import Parts, attention_decoder, normed
from hybridkit_blocks.ops.kernel_gate import difference, step_kernels, step_may_run
from hybridkit_blocks.ops.rope import RopeAngles, rotate
from hybridkit_blocks.ops.scores import Scores

_SCHEMA = (
    "(Tensor mixed, Tensor turns, Tensor? sinks, Tensor(a!) k, Tensor(b!) v, Tensor(c!) position, Tensor since, "
    "Tensor window, float scale, float cap, float magnitude, bool gated) -> Tensor"
)


def attention_in_torch_(
    mixed: Tensor,  # (B, (H + 2 K) E), or (B, 2 (H + K) E) with the gate
    turns: Tensor,  # (R / 2,) float64: whole turns a token of every pair of channels
    sinks: Tensor | None,  # (H,)
    k: Tensor,  # (B, K, S, E), as in kv_cache.KV
    v: Tensor,
    position: Tensor,  # (B,) int64
    since: Tensor,
    window: Tensor,
    scale: float,
    cap: float,  # 0: none
    magnitude: float,
    gated: bool,
) -> Tensor:
    """y (B, H E) in the products' type. The ring is changed in place, and the position grows by one."""
    batch, kv_heads, _, head = k.shape
    parts = mixed.view(batch, 1, -1, head)
    heads = (parts.shape[2] - 2 * kv_heads) // (1 + gated)
    both, own_v, gate = parts.split((heads + kv_heads, kv_heads, heads * gated), 2)
    if len(turns):
        angles = (position[:, None] * turns * (2 * math.pi))[:, None, None]
        kind = torch.promote_types(mixed.dtype, torch.float32)
        cos, sin = ((t * magnitude).to(kind) for t in (angles.cos(), angles.sin()))
        both = rotate(both, RopeAngles(cos, sin))
    q, own_k = both.split((heads, kv_heads), 2)
    state = kv_cache.KV(k, v, position, since, window)
    y = decode(q, own_k, own_v.contiguous(), state, Scores(scale, cap or None, sinks))
    kv_cache.append_(state, own_k.transpose(1, 2), own_v.transpose(1, 2))
    return (y * torch.sigmoid(gate) if gated else y).reshape(batch, -1).to(mixed.dtype)


@torch.library.custom_op("hybridkit::attention_step", mutates_args=("k", "v", "position"), schema=_SCHEMA)
def attention_in_kernels_(
    mixed: Tensor, turns: Tensor, sinks: Tensor | None, k: Tensor, v: Tensor, position: Tensor, since: Tensor,
    window: Tensor, scale: float, cap: float, magnitude: float, gated: bool,
) -> Tensor:  # fmt: skip
    """`attention_in_torch_` as two kernels, for a ring with a slot at least, whose channels lie side by side."""
    from hybridkit_blocks.ops.cuda.attention_step import launch_attention_step_  # imports triton

    return launch_attention_step_(
        mixed.contiguous(), turns, sinks, k, v, position, since, window, scale, cap, magnitude, gated
    )


@attention_in_kernels_.register_fake
def _(
    mixed: Tensor, turns: Tensor, sinks: Tensor | None, k: Tensor, v: Tensor, position: Tensor, since: Tensor,
    window: Tensor, scale: float, cap: float, magnitude: float, gated: bool,
) -> Tensor:  # fmt: skip
    head = k.shape[3]
    heads = (mixed.shape[1] // head - 2 * k.shape[1]) // (1 + gated)
    return mixed.new_empty(len(mixed), heads * head)


def token_decoder(parts: Parts, scores: Scores, rows: int) -> StepFunction:
    """`x + step(norm(x))` of the attention with these parts, for the device that holds them."""
    build = gpu_decoder if packed.on_gpu(parts.back.weight) else attention_decoder
    return build(parts, scores, rows)


def gpu_decoder(parts: Parts, scores: Scores, rows: int) -> StepFunction:
    """`x + step(norm(x))` of the attention with these parts, without asking the device for anything."""
    norm, projections, norms, back, head, rope = parts
    weights, sinks = [linear.weight for linear in projections], scores.sinks
    bias = None if projections[0].bias is None else torch.cat([linear.bias for linear in projections])
    into = packed.normed_product(norm, weights, rows, bias)
    out, cuts = packed.output(norm, back.weight, rows, back.bias), [len(weight) for weight in weights]
    speeds = torch.empty(0, dtype=torch.float64) if rope is None else rope.speeds()
    turns = (speeds / (2 * math.pi)).to(back.weight.device)
    settings = scores.scale or head**-0.5, scores.cap or 0.0, rope.magnitude if rope else 1.0, len(weights) > 3

    def mixed_of(x: Tensor) -> Tensor:
        mixed = into(x)
        if isinstance(norms[0], nn.Identity):
            return mixed
        q, k, *rest = mixed.split(cuts, -1)
        heads = ((norm, t.unflatten(-1, (-1, head))[:, None]) for norm, t in zip(norms, (q, k), strict=True))
        return torch.cat([*(normed(norm, t).flatten(1).to(mixed.dtype) for norm, t in heads), *rest], -1)

    def run(x: Tensor, state: State) -> tuple[Tensor, kv_cache.KV]:
        assert isinstance(state, kv_cache.KV)
        x = x[:, 0]
        mixed = mixed_of(x)
        step = attention_in_kernels_ if _compiled(mixed, turns, state) else attention_in_torch_
        k, v, position, since, window = state
        return out(x, step(mixed, turns, sinks, k, v, position, since, window, *settings))[:, None], state

    return run


def _compiled(mixed: Tensor, turns: Tensor, state: kv_cache.KV) -> bool:
    """Whether the kernels compute this step."""
    fits = state.k.shape[2] > 0 and state.k.stride(3) == 1 and state.v.stride(3) == 1
    head = state.k.shape[3]
    return fits and step_kernels(mixed.device.type) and agrees(mixed.device, mixed.dtype, head, 2 * len(turns))


@functools.cache
def agrees(device: torch.device, dtype: torch.dtype, head: int, turning: int) -> bool:
    """Whether the kernels agree with the torch form on this device; if not, a warning says so. Checked once."""
    case = f"heads of {head}, of which {turning} channels turn"
    return step_may_run("a step of attention", device, dtype, case, lambda: _fault(device, dtype, head, turning))


class _Trial(NamedTuple):
    """What the kernels are compared on."""

    heads: int
    slots: int
    window: int
    cap: float
    more: bool  # sinks and a gate


_KV_HEADS = 2
_TRIALS = _Trial(2, 300, 0, 0.0, False), _Trial(4, 20, 21, 3.0, True)
_TOKENS, _ROWS = 3, 2


def _fault(device: torch.device, dtype: torch.dtype, head: int, turning: int) -> str:
    """How outputs and rings differ after some tokens by more than rounding; empty if they do not."""
    faults = [_fault_of(trial, device, dtype, head, turning) for trial in _TRIALS]
    return next(filter(None, faults), "")


def _fault_of(trial: _Trial, device: torch.device, dtype: torch.dtype, head: int, turning: int) -> str:
    draw, (heads, slots, window, cap, more) = torch.Generator().manual_seed(0), trial
    with torch.no_grad():
        rings = torch.randn(2, _ROWS, _KV_HEADS, slots, head, generator=draw).to(device, dtype)
        sinks = torch.randn(heads, generator=draw).to(device, dtype) if more else None
        width = (heads * (1 + more) + 2 * _KV_HEADS) * head
        mixed = torch.randn(_TOKENS, _ROWS, width, generator=draw).to(device, dtype)
        turns = (10000.0 ** -torch.linspace(0, 1, turning // 2, dtype=torch.float64) / 6).to(device)
        numbers = torch.tensor([[slots + 7] * _ROWS, [slots - 5, 0], [window] * _ROWS], device=device)
        settings, results = (0.9 * head**-0.5, cap, 1.1, more), list[list[Tensor]]()
        for step in _STEPS:
            k, v = rings.clone()
            position, since, limit = numbers.clone()
            y = torch.stack([step(t, turns, sinks, k, v, position, since, limit, *settings) for t in mixed])
            results.append([y, k, v, position])
    return difference(("y", "keys", "values", "position"), results[0], results[1], dtype)


_STEPS: Sequence[Callable[..., Tensor]] = (attention_in_kernels_, attention_in_torch_)
