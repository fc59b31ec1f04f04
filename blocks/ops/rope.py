"""Rotary position embedding (arXiv 2104.09864), halves rotated against each other as Llama's checkpoints expect.

B batch, T tokens, H heads, E width of a head, R channels of a head that turn, the first ones; the others stay.

Pair i of R / 2 turns by s_i a token, s_i = theta^(-2i / R). A model that was trained on `original` tokens reads longer
texts when slow pairs turn more slowly. Let n_i = original s_i / 2 pi be the turns of pair i in such a text:

    linear   s_i / factor (arXiv 2306.15595)
    llama3   s_i (k + (1 - k) / factor),  k = (n_i - slow) / (fast - slow) cut to 0 .. 1 (Llama 3.1's weights)
    yarn     the same with k that falls in equal steps from 1 at the pair that turns `fast` times to 0 at the one that
             turns `slow` times, both rounded outwards where `truncate` says so; queries and keys are also multiplied
             by `magnitude`, 1 + ln(factor) / 10 where none is given (arXiv 2309.00071)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hybridkit_blocks.ops.rope_angles import cos_sin
from hybridkit_blocks.ops.spans import span_elements

SLICE_ELEMENTS = 2**17  # of a slice: 512 KiB in fp32, about a core's cache
ScalingKind = Literal["linear", "yarn", "llama3"]


class Stretch(NamedTuple):
    """How pairs turn more slowly than in training."""

    kind: ScalingKind
    factor: float
    original: int
    fast: float
    slow: float
    truncate: bool
    magnitude: float


class Rope(NamedTuple):
    """The `size` first channels of a head turn with base `theta`; `size` is even."""

    size: int
    theta: float
    stretch: Stretch | None = None

    @property
    def magnitude(self) -> float:
        """What rotated channels are multiplied by."""
        return self.stretch.magnitude if self.stretch else 1.0

    def speeds(self, device: torch.device | None = None) -> Tensor:
        """Radians a token of every pair: (R / 2,) float64."""
        half = self.size // 2
        plain = self.theta ** -(torch.arange(half, dtype=torch.float64, device=device) / half)
        return plain if self.stretch is None else _KEPT[self.stretch.kind](self, self.stretch, plain)

    def angles(self, positions: Tensor, dtype: torch.dtype) -> RopeAngles:
        """The angles at positions (T,) or (B, T).

        Angles are float64: at position 10^6 an fp32 product is off by a twentieth of a radian.
        """
        given = positions, self.speeds(positions.device), self.magnitude, torch.promote_types(dtype, torch.float32)
        if not torch.compiler.is_compiling():
            return RopeAngles(*cos_sin(*given))
        from hybridkit_blocks.ops.rope_operator import cos_sin_operator  # takes time to register

        return RopeAngles(*cos_sin_operator(*given))


class RopeAngles(NamedTuple):
    """Cosine and sine of the angles of every position: both (T, 1, R / 2) or (B, T, 1, R / 2), at least fp32."""

    cos: Tensor
    sin: Tensor


def _linear(rope: Rope, stretch: Stretch, plain: Tensor) -> Tensor:
    return plain / stretch.factor


def _llama3(rope: Rope, stretch: Stretch, plain: Tensor) -> Tensor:
    turns = stretch.original * plain / (2 * math.pi)
    return _mixed(plain, ((turns - stretch.slow) / (stretch.fast - stretch.slow)).clamp(0, 1), stretch)


def _yarn(rope: Rope, stretch: Stretch, plain: Tensor) -> Tensor:
    def pair(turns: float) -> float:
        return rope.size * math.log(stretch.original / (2 * math.pi * turns)) / (2 * math.log(rope.theta))

    low, high = pair(stretch.fast), pair(stretch.slow)
    if stretch.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.size - 1)
    steps = torch.arange(len(plain), dtype=torch.float64, device=plain.device) - low
    return _mixed(plain, 1 - (steps / (high - low if high != low else 1e-3)).clamp(0, 1), stretch)


def _mixed(plain: Tensor, kept: Tensor, stretch: Stretch) -> Tensor:
    """Speeds of which the share `kept` stays as it was."""
    return plain * kept + plain / stretch.factor * (1 - kept)


_KEPT: dict[ScalingKind, Callable[[Rope, Stretch, Tensor], Tensor]] = {
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}


def rotate(x: Tensor, angles: RopeAngles) -> Tensor:
    """Rotate x (B, T, H, E) to its positions: same dtype and shape, each head contiguous in memory."""
    if torch.compiler.is_compiling():  # the compiler makes one pass of it
        cos, sin = angles
        turning, still = x.tensor_split([2 * cos.shape[-1]], -1)
        a, b = turning.to(cos.dtype).chunk(2, -1)
        return torch.cat([(a * cos - b * sin).to(x.dtype), (b * cos + a * sin).to(x.dtype), still], -1)
    return _Rotate.apply(x, *angles)


class _Rotate(torch.autograd.Function):
    """Custom, since it passes over memory three times; splitting, multiplying and joining halves takes seven."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        x, cos, sin = (t.transpose(-3, -2) for t in (x, cos, sin))
        return _turned(x, cos, sin, tokens=-2).transpose(-3, -2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _turned(grads[0], cos, -sin, tokens=-3), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, tokens: int) -> Tensor:
    """The rotation itself, on x (., E) of any order in memory, into contiguous memory. `tokens`: T's dimension.

    What is bf16 is cast a slice at a time, while it is in the cache.
    """
    if x.dtype == cos.dtype:
        return _turned_alike(x, cos, sin)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    step = max(1, span_elements(x, SLICE_ELEMENTS) * x.shape[tokens] // max(1, x.numel()))
    for *given, made in zip(*(t.split(step, tokens) for t in (x, cos, sin, out)), strict=True):
        made.copy_(_turned_alike(given[0].to(cos.dtype), *given[1:]))
    return out


def _turned_alike(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    size = 2 * cos.shape[-1]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    out[..., size:] = x[..., size:]
    turning, made = x[..., :size], out[..., :size]
    torch.mul(turning, torch.cat([cos, cos], -1), out=made)
    a, b = turning.chunk(2, -1)
    out_a, out_b = made.chunk(2, -1)
    out_a.addcmul_(b, sin, value=-1)
    out_b.addcmul_(a, sin)
    return out


def rotary_at(rope: Rope, like: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """A function that rotates x (B, N, R), all of which turns, to positions (B,), on like's device."""
    half, wide = rope.size // 2, torch.promote_types(like.dtype, torch.float32)
    speeds, phases = (t.to(like.device) for t in waves_of(rope))

    def turned(x: Tensor, position: Tensor) -> Tensor:
        waves = torch.addcmul(phases, speeds, position[:, None, None]).cos_()  # (B, 2, R)
        if rope.magnitude != 1:
            waves.mul_(rope.magnitude)
        cos, sin = waves.to(wide)[:, :, None].unbind(1)
        return torch.addcmul(x * cos, x.roll(half, -1), sin)

    return turned


def waves_of(rope: Rope) -> tuple[Tensor, Tensor]:
    """Speeds and phases (2, R): of cos(a), and of -sin(a), sin(a) as cosines, for a pair's angle a."""
    quarter = torch.full((rope.size // 2,), math.pi / 2, dtype=torch.float64)  # -sin(a) is cos(a + pi / 2)
    phases = torch.stack([torch.zeros(rope.size, dtype=torch.float64), torch.cat([quarter, -quarter])])
    return rope.speeds().repeat(2, 2), phases
