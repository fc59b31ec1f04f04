"""The recurrence of RG-LRU with its gates (Griffin, arXiv 2402.19427, section 2.4), with its own gradient.

    log a_t = -8 r_t softplus(decay)          h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t u_t

with i and r the sigmoids of what is given. Where a document begins, a counts as 0 and the root as 1. The root's
gradient is bounded, as in RecurrentGemma.

It runs span by span, and a span in blocks of tokens: first every block from zero at once, token after token, then from
block to block, then every block again from what came before it. The gradient runs the same way back in time, and
computes the gates again. Both keep h alone.

Letters: B batch, T tokens, H heads, w width of a head, W = H w, S tokens of a span.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hybridkit_blocks.ops.operators import operator
from hybridkit_blocks.ops.precision import no_autocast
from hybridkit_blocks.ops.spans import span_elements

SHARPNESS = 8.0  # the constant before r
STEEPEST = 1000.0  # the gradient of the root at most
SPAN_ELEMENTS = 2**18  # of a span at most, on a CPU: 1 MiB in fp32


def recurrence(
    u: Tensor,  # (B, T, H, w)
    igate: Tensor,  # (B, T, H, w), before the sigmoid
    rgate: Tensor,  # (B, T, H, w), before the sigmoid
    decay: Tensor,  # (W,)
    h: Tensor,  # (B, W): that before the first token
    begins: Tensor,  # (B, T) bool: a document begins here; or (B, 1), where at most the first token begins one
) -> tuple[Tensor, Tensor]:
    """h of every token (B, T, W) in u's type, and after the last (B, W). Both can be differentiated, once."""
    run = _operator if torch.compiler.is_compiling() else _Recurrence.apply
    with no_autocast(u):
        made, after = run(u, igate, rgate, decay, h, begins)
    return made, after


class Gates(NamedTuple):
    """The gates of a stretch of tokens, each (B, S, H, w), contiguous."""

    i: Tensor
    r: Tensor
    a: Tensor
    root: Tensor

    @classmethod
    def of(cls, igate: Tensor, rgate: Tensor, decay: Tensor, begins: Tensor, kind: torch.dtype) -> Gates:
        """From pre-activations (B, S, H, w), decay (W,), and where documents begin, of the first tokens at least."""
        i, r = (torch.sigmoid(t.to(kind, memory_format=torch.contiguous_format).contiguous()) for t in (igate, rgate))
        log_a = r * rates(decay, kind).view(r.shape[2:])
        root = torch.expm1(2 * log_a).neg_().sqrt_()
        a, fresh = log_a.exp_(), begins[..., None, None]
        a[:, : begins.shape[1]].masked_fill_(fresh, 0)
        root[:, : begins.shape[1]].masked_fill_(fresh, 1)
        return cls(i, r, a, root)

    def gradient(self, g: Tensor, u: Tensor, before: Tensor, rate: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The gradients of u, both pre-activations and the rates.

        `g` is the gradient of h, and `before` is h of the token before each; both (B, S, H, w).
        """
        i, r, a, root = self
        dlog = (before - i * u * a / root.clamp(min=0.5 / STEEPEST)).mul_(g).mul_(a)
        dgated = g.mul_(root)
        digate = torch.ops.aten.sigmoid_backward(dgated * u, i)
        drgate = torch.ops.aten.sigmoid_backward(dlog * rate.view(a.shape[2:]), r)
        return dgated.mul_(i), digate, drgate, dlog.mul_(r).sum((0, 1)).flatten()


def rates(decay: Tensor, kind: torch.dtype) -> Tensor:
    """log a where r = 1 (W,)."""
    return -SHARPNESS * F.softplus(decay.to(kind))


class _Recurrence(torch.autograd.Function):
    """The same, span by span."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, igate: Tensor, rgate: Tensor, decay: Tensor, h: Tensor, begins: Tensor
    ) -> tuple[Tensor, Tensor]:
        batch, tokens, *shape = u.shape
        made = h.new_empty(batch, tokens + 1, math.prod(shape))  # with what comes before the first token
        made[:, 0] = h
        for part in _spans(u):
            gates = Gates.of(igate[:, part], rgate[:, part], decay, begins[:, part], h.dtype)
            added = (gates.root * gates.i).mul_(u[:, part]).flatten(2)
            h = _scan(gates.a.flatten(2), added, h, made[:, 1:][:, part], back=False)
        ctx.save_for_backward(u, igate, rgate, decay, begins, made)
        return made[:, 1:].to(u.dtype), h.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        with no_autocast(outputs[0]):
            return _Recurrence.gradient(ctx, *outputs)

    @staticmethod
    def gradient(ctx: Any, dh: Tensor, dlast: Tensor) -> Any:
        """Gradients of all inputs. That of h_t is g_t = dh_t + a_{t+1} g_{t+1}."""
        u, igate, rgate, decay, begins, made = ctx.saved_tensors
        kind, following = made.dtype, dlast  # a_{t+1} g_{t+1} of what comes after the span
        drate = torch.zeros_like(rates(decay, kind))
        du, digate, drgate = (torch.empty_like(t) for t in (u, igate, rgate))
        for part in reversed(_spans(u)):
            gates = Gates.of(igate[:, part], rgate[:, part], decay, begins[:, part], kind)
            g = torch.empty_like(gates.a)
            keep = torch.cat([gates.a[:, 1:], torch.ones_like(gates.a[:, :1])], 1)
            _scan(keep.flatten(2), dh[:, part].to(kind), following, g.flatten(2), back=True)
            following = (gates.a[:, 0] * g[:, 0]).flatten(1)
            more = gates.gradient(g, u[:, part].to(kind), made[:, part].view_as(g), rates(decay, kind))
            for target, found in zip((du, digate, drgate), more[:3], strict=True):
                target[:, part] = found
            drate += more[3]
        ddecay = drate * -SHARPNESS * torch.sigmoid(decay.to(kind))
        return du, digate, drgate, ddecay.to(decay.dtype), following, None


_INPUTS = "Tensor u, Tensor igate, Tensor rgate, Tensor decay, Tensor h, Tensor? begins"
_operator = operator("rglru", _Recurrence, _INPUTS, outputs=2)


def _spans(u: Tensor) -> list[slice]:
    """Cuts of T (B, T, H, w)."""
    step = max(1, span_elements(u, SPAN_ELEMENTS) // u[:, :1].numel())
    return [slice(begin, min(begin + step, u.shape[1])) for begin in range(0, u.shape[1], step)]


def _scan(a: Tensor, b: Tensor, before: Tensor, h: Tensor, back: bool) -> Tensor:
    """Fills h_t = a_t h_{t-1} + b_t (B, S, W), or with h_{t+1} for h_{t-1}, from h before (B, W); gives the last one.

    sqrt(S) blocks at once take 2 sqrt(S) steps, each over a token of every block.
    """
    tokens, turn = a.shape[1], slice(None, None, -1 if back else 1)
    blocks = math.isqrt(tokens)
    rest = tokens % blocks
    whole = slice(rest, None) if back else slice(None, tokens - rest)
    columns = [t[:, whole].unflatten(1, (blocks, -1)).unbind(2)[turn] for t in (a, b, h)]  # (B, n), token by token
    (a_, b_, _), *others = steps = list(zip(*columns, strict=True))
    keep, end = a_.clone(), b_.clone()
    for a_, b_, _ in others:
        torch.addcmul(b_, end, a_, out=end)
        keep.mul_(a_)
    begin = torch.empty_like(end)
    for keep_, end_, begin_ in zip(*(t.unbind(1)[turn] for t in (keep, end, begin)), strict=True):
        begin_.copy_(before)
        before = torch.addcmul(end_, before, keep_)
    last = begin
    for a_, b_, h_ in steps:
        last = torch.addcmul(b_, last, a_, out=h_)
    for a_, b_, h_ in zip(*(t[:, _rest(rest, back)].unbind(1)[turn] for t in (a, b, h)), strict=True):
        before = torch.addcmul(b_, before, a_, out=h_)
    return before


def _rest(rest: int, back: bool) -> slice:
    """The tokens outside whole blocks, which come last in the order of the scan."""
    return slice(0, rest) if back or not rest else slice(-rest, None)
