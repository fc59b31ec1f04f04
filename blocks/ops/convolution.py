"""The causal depthwise convolution over time that several mixers begin with, with a carried state and documents.

    y_t = act(bias + sum over j < k of w_j x_{t-j})        each channel apart, k taps

It carries the last k - 1 inputs. A document's first tokens see nothing of the one before: taps that would reach over
its start are left out, and inputs of an earlier document are zero in the state.

On a CPU both passes run slice by slice, each small enough to stay in the cache, in their own autograd function: torch's
depthwise convolution is several times slower there, mostly in its gradient. It keeps x alone and computes what the
activation was given again. Elsewhere it is a sum of k products, which torch.compile joins.

Letters: B batch, T tokens, C channels, k taps; `lags` are how far back a token may see, 0 to k - 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hybridkit.block import has_values, packed
from hybridkit_blocks.ops.activation import IDENTITY, Activation
from hybridkit_blocks.ops.convolution_token import Convolved, convolved_in_torch
from hybridkit_blocks.ops.custom_autograd import eager_on_cpu

SLICE_ELEMENTS = 2**16  # of a slice at most: 256 KiB in fp32, about a core's cache


def convolution_flops(channels: int, kernel: int, tokens: int) -> int:
    """Forward FLOPs of the convolution of one sequence: 2 per tap, channel and token."""
    return 2 * channels * kernel * tokens


def convolution_reference(channels: int, kernel: int, tokens: int) -> Callable[[], object]:
    """The same as matrix products, for a block's `cost_reference`: every channel's taps with its windows of inputs."""
    taps, windows = torch.zeros(channels, 1, kernel), torch.zeros(channels, kernel, tokens)
    return lambda: taps @ windows


class Convolution(nn.Module):
    """A causal depthwise convolution over (B, T, C); its state is a tensor (B, k - 1, C) of past inputs, oldest first.

    `weight` (C, k) holds the tap of the token itself last, as torch's Conv1d has it. It begins as Conv1d does.
    """

    def __init__(self, channels: int, kernel: int, bias: bool = False, activation: Activation = IDENTITY) -> None:
        super().__init__()
        self.activation = activation
        self.weight = nn.Parameter(torch.empty(channels, kernel).uniform_(-(kernel**-0.5), kernel**-0.5))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-(kernel**-0.5), kernel**-0.5)) if bias else None

    def forward(
        self,
        x: Tensor,
        state: Tensor | None = None,
        document_starts: Tensor | None = None,
        own: Callable[[Tensor], Tensor] = lambda t: t,
    ) -> tuple[Tensor, Tensor]:
        """x (B, T, C), starts (B, T) bool to y (B, T, C) in x's type, and the inputs that later tokens need.

        `own` takes from all channels' weight and bias those of x, where ranks share a sequence.
        """
        bias = None if self.bias is None else own(self.bias)
        return convolve(x, own(self.weight), bias, self.activation, state, document_starts)

    def step(self, x: Tensor, state: Tensor) -> Tensor:
        """One token x (B, C) to y (B, C); `state` is moved on in place. It has no gradient."""
        return self.stepper()(x, state).to(x.dtype)

    def stepper(self) -> Convolved:
        """`step` with the weights laid out for many tokens; what it returns is at least fp32."""
        kind = torch.promote_types(self.weight.dtype, torch.float32)
        bias = None if self.bias is None else self.bias.to(kind)
        given = self.weight.T.to(kind).contiguous(), bias, self.activation
        if not packed.on_gpu(self.weight):
            return convolved_in_torch(*given)
        from hybridkit_blocks.ops.convolution_step import convolved  # its operator takes time to register

        return convolved(*given, self.weight.dtype)


def convolution_state(
    batch: int, channels: int, kernel: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """An empty state (B, k - 1, C), in the model's type."""
    return torch.zeros(batch, kernel - 1, channels, device=device, dtype=dtype)


def convolve(
    x: Tensor,  # (B, T, C)
    weight: Tensor,  # (C, k), the token's own tap last
    bias: Tensor | None,  # (C,)
    activation: Activation,
    state: Tensor | None,  # (B, k - 1, C)
    document_starts: Tensor | None,  # (B, T) bool
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """y (B, T, C) in `dtype`, else in x's type, and the state after it; sums are at least fp32."""
    taps, dtype = weight.shape[1], dtype or x.dtype
    before = x.new_zeros(len(x), taps - 1, x.shape[-1]) if state is None else state.to(x.dtype)
    lags = None if document_starts is None else _lags(document_starts, taps)
    y = (_Sliced.apply if eager_on_cpu(x) else _summed)(x, weight, bias, before, lags, activation, dtype)
    return y, _after(x, before, lags)


def _lags(document_starts: Tensor, taps: int) -> Tensor:
    """How far back each token may see (B, T): to its document's start, where that lies in this call."""
    place = torch.arange(document_starts.shape[1], device=document_starts.device)
    return (place - torch.where(document_starts, place, -taps).cummax(1).values).clamp_(max=taps - 1)


def _after(x: Tensor, before: Tensor, lags: Tensor | None) -> Tensor:
    """The last k - 1 inputs, those of the last document alone (B, k - 1, C), in memory of their own."""
    held, tokens = before.shape[1], x.shape[1]
    last = torch.cat([before[:, tokens:], x], 1) if tokens < held else x[:, tokens - held :].clone()
    if lags is None or not held or not tokens:
        return last
    age = torch.arange(held - 1, -1, -1, device=x.device)  # of each held input, at the last token
    return last.where((age <= lags[:, -1:])[..., None], 0)


def _summed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    before: Tensor,
    lags: Tensor | None,
    activation: Activation,
    dtype: torch.dtype,
) -> Tensor:
    """y as a sum of k shifted products."""
    kind, taps, tokens = torch.promote_types(x.dtype, torch.float32), weight.shape[1], x.shape[1]
    extended = torch.cat([before, x], 1).to(kind)
    z = torch.zeros_like(x, dtype=kind) if bias is None else bias.to(kind).expand(x.shape)
    for place, tap in enumerate(weight.to(kind).unbind(1)):
        seen = extended[:, place : place + tokens]
        z = z + tap * (seen if lags is None else seen.where((lags >= taps - 1 - place)[..., None], 0))
    return activation.apply(z).to(dtype)


class _Sliced(torch.autograd.Function):
    """The same, slice by slice over time."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        before: Tensor,
        lags: Tensor | None,
        activation: Activation,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias, before, lags)
        ctx.activation = activation
        y, work = torch.empty(x.shape, dtype=dtype), _Work(x, weight, bias, before, lags)
        for part in work.slices:
            y[:, part] = activation.apply(work.sums(work.windows(part)))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Any:
        """Slices run from the last to the first, since an input reaches the k - 1 tokens after it."""
        x, weight, bias, before, lags = ctx.saved_tensors
        work = _Work(x, weight, bias, before, lags)
        batch, taps, channels = len(x), weight.shape[1], x.shape[-1]
        dx = torch.empty_like(x, memory_format=torch.contiguous_format)
        dweight = torch.zeros(taps, batch, work.length, channels, dtype=work.kind)
        dbias = None if bias is None else torch.zeros(channels, dtype=work.kind)
        following = torch.zeros(batch, taps - 1, channels, dtype=work.kind)  # dz of the next k - 1 tokens
        for part in reversed(work.slices):
            windows = work.windows(part)
            dz = ctx.activation.gradient(dy[:, part].to(work.kind), work.sums(windows))
            dweight[:, :, : dz.shape[1]].addcmul_(dz, windows)
            if dbias is not None:
                dbias += dz.sum((0, 1))
            reached = torch.cat([dz, following], 1)
            dx[:, part] = work.inputs(reached, part)
            following = reached[:, : taps - 1]
        dbefore = work.inputs(F.pad(following, (0, 0, taps - 1, 0)), slice(1 - taps, 0))
        return dx, dweight.sum((1, 2)).T.to(weight), dbias, dbefore.to(before), None, None, None


class _Work:
    """The slices of one call, and the sums over taps of each."""

    def __init__(self, x: Tensor, weight: Tensor, bias: Tensor | None, before: Tensor, lags: Tensor | None) -> None:
        batch, tokens, channels = x.shape
        self.kind, self.held = torch.promote_types(x.dtype, torch.float32), weight.shape[1] - 1
        self.length = min(tokens, max(16, SLICE_ELEMENTS // max(1, batch * channels)))
        self.slices = [slice(a, min(a + self.length, tokens)) for a in range(0, tokens, self.length or 1)]
        self.x, self.before = x, before
        self.weights = weight.T.to(self.kind).contiguous()  # (k, C)
        self.bias = None if bias is None else bias.to(self.kind)
        self.back = torch.arange(self.held + 1)[:, None, None, None]
        # of the tokens from -held to T + held, so that every slice and what it reaches lie inside
        lags = x.new_zeros(0, 0) if lags is None else F.pad(lags, (self.held, self.held), value=self.held)
        near = (lags < self.held).any(0)  # near: a document has just begun, or could have
        self.lags, self.near = lags, near.tolist() if has_values(near) else [True] * len(near)

    def windows(self, part: slice) -> Tensor:
        """What each tap of each token sees (k, B, L, C), in the type of sums: a view, where no document begins."""
        if part.start < self.held:
            seen = torch.cat([self.before[:, part.start :], self.x[:, : part.stop]], 1)
        else:
            seen = self.x[:, part.start - self.held : part.stop]
        windows = _windows(seen.to(self.kind), self.held + 1)
        if not any(self.near[part.start + self.held : part.stop + self.held]):
            return windows
        own = self.lags[:, part.start + self.held : part.stop + self.held, None]
        return windows.where(own >= self.back.flip(0), 0)

    def sums(self, windows: Tensor) -> Tensor:
        """What the activation takes (B, L, C)."""
        first, *others = windows.unbind()
        z = first * self.weights[0] if self.bias is None else torch.addcmul(self.bias, first, self.weights[0])
        for seen, tap in zip(others, self.weights[1:].unbind(), strict=True):
            z.addcmul_(seen, tap)
        return z

    def inputs(self, reached: Tensor, part: slice) -> Tensor:
        """The gradient of the inputs (B, L, C) from dz of those and the k - 1 tokens after them."""
        windows = _windows(reached, self.held + 1)  # by lag: an input is seen by itself and k - 1 later tokens
        if any(self.near[part.start + self.held : part.stop + 2 * self.held]):
            allowed = self.lags[:, part.start + self.held : part.stop + 2 * self.held, None]
            windows = windows.where(_windows(allowed, self.held + 1) >= self.back, 0)
        dx = windows[0] * self.weights[-1]
        for given, tap in zip(windows[1:].unbind(), self.weights.flip(0)[1:].unbind(), strict=True):
            dx.addcmul_(given, tap)
        return dx


def _windows(t: Tensor, taps: int) -> Tensor:
    """(B, L + k - 1, C) as k views, each a token further (k, B, L, C)."""
    batch, tokens, channels = t.shape
    return t.as_strided((taps, batch, tokens - taps + 1, channels), (t.stride(1), *t.stride()))
