"""Faults of outputs and gradients: what a call depends on, and what it does beside its work."""

import random
import time

import torch
from torch import nn

from hybridkit_blocks.mlstm import Mlstm
from hybridkit_blocks.sa import SelfAttention
from mutants.base import ATTEND, RUNNING, RunningLayer, Sum, mutant

MLSTM, SA = Mlstm(), SelfAttention()


def forward(change):  # type: ignore[no-untyped-def]
    """A forward that changes the output y of the correct one: change(layer, x, y, state, starts)."""

    def run(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
        y, after = self.right(x, state, window=window, document_starts=document_starts)
        return change(self, x, y, state, document_starts), after

    return run


def longer(tokens: int, change):  # type: ignore[no-untyped-def]
    """The change in calls of so many tokens and more alone."""
    return forward(lambda self, x, y, *given: change(self, x, y, *given) if x.shape[1] >= tokens else y)


def marks(change):  # type: ignore[no-untyped-def]
    """A forward with other marks of documents."""

    def run(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
        return self.right(
            x, state, window=window, document_starts=None if document_starts is None else change(document_starts, state)
        )

    return run


def windows(change):  # type: ignore[no-untyped-def]
    """A forward with another window."""

    def run(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
        return self.right(x, state, window=change(window, x, state), document_starts=document_starts)

    return run


def mean(self, x, y, *given):  # type: ignore[no-untyped-def]
    return y + 1e-3 * x.mean(1, keepdim=True)


def next_token(self, x, y, *given):  # type: ignore[no-untyped-def]
    return y + 1e-3 * torch.cat([x[:, 1:], x[:, -1:]], 1)


def chunk_end(length: int):  # type: ignore[no-untyped-def]
    """Every token sees the last one of its chunk."""

    def change(self, x, y, *given):  # type: ignore[no-untyped-def]
        last = (torch.arange(x.shape[1]) // length * length + length - 1).clamp(max=x.shape[1] - 1)
        return y + 1e-3 * x[:, last]

    return change


def at(place: int, change):  # type: ignore[no-untyped-def]
    """The change at one position of a call alone."""

    def run(self, x, y, *given):  # type: ignore[no-untyped-def]
        here = (torch.arange(x.shape[1]) == place)[None, :, None]
        return torch.where(here, change(self, x, y, *given), y)

    return run


def counting(self, x, y, *given):  # type: ignore[no-untyped-def]
    self.calls = getattr(self, "calls", 0) + 1
    return y + 1e-3 * (self.calls > 3)


def scribbling(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
    out = self.right(x, state, window=window, document_starts=document_starts)
    with torch.no_grad():
        x.mul_(1.001)
    return out


def training_only(self, x, y, *given):  # type: ignore[no-untyped-def]
    return nn.functional.dropout(y, 0.1, self.training)


class HalfGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        return x.clone()

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return grad / 2


def half_weight(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
    weights = {"proj.weight": HalfGradient.apply(self.proj.weight)}
    return torch.func.functional_call(Plain(self), weights, (x, state), {"document_starts": document_starts})


class Plain(RunningLayer):
    """The right layer over another's weights."""

    def __init__(self, other: RunningLayer) -> None:
        nn.Module.__init__(self)
        self.proj = other.proj


def buffered(layer):  # type: ignore[no-untyped-def]
    layer.register_buffer("seen", torch.zeros(1))


def moving_buffer(self, x, y, *given):  # type: ignore[no-untyped-def]
    self.seen += 1
    return y


def unsaved(layer):  # type: ignore[no-untyped-def]
    layer.shift = 0.1 * torch.randn(layer.proj.in_features)


def blocked(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
    if x.shape[1] % 4:
        raise RuntimeError("length must be a multiple of 4")
    return self.right(x, state, document_starts=document_starts)


def first_starts(document_starts, state):  # type: ignore[no-untyped-def]
    return document_starts[:1].expand_as(document_starts)


def no_start_at_0(document_starts, state):  # type: ignore[no-untyped-def]
    document_starts = document_starts.clone()
    if state is not None:
        document_starts[:, 0] = False
    return document_starts


def detached_past(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
    if x.shape[1] < 100:
        return self.right(x, state, document_starts=document_starts)
    _, half = self.right(x[:, :64], state, document_starts=None if document_starts is None else document_starts[:, :64])
    y, after = self.right(
        x[:, 64:],
        Sum(half.total.detach()),
        document_starts=None if document_starts is None else document_starts[:, 64:],
    )
    return torch.cat(
        [
            self.right(x[:, :64], state, document_starts=None if document_starts is None else document_starts[:, :64])[
                0
            ],
            y,
        ],
        1,
    ), after


def as_rows(self, x, y, *given):  # type: ignore[no-untyped-def]
    return y + 1e-3 * x.mean(0, keepdim=True) * (len(x) > 1)


def wide(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
    weights = {"proj.weight": self.proj.weight.float()}
    held = None if state is None else Sum(state.total.float())
    y, after = torch.func.functional_call(Plain(self), weights, (x.float(), held), {"document_starts": document_starts})
    return y.to(x.dtype), Sum(after.total.to(x.dtype))


MUTANTS = [
    mutant("every output sees the mean of all tokens", forward=forward(mean)),
    mutant("a leak only in calls of 128 tokens and more", forward=longer(128, mean)),
    mutant("a leak only in calls of 257 tokens and more", forward=longer(257, mean), block=SA),
    mutant("a leak only in calls of 1,000 tokens and more", forward=longer(1000, mean), block=MLSTM),
    mutant("each output sees the next token", forward=forward(next_token)),
    mutant("the next token is seen at position 63 alone", forward=forward(at(63, next_token))),
    mutant("the next token is seen at position 200 of long calls alone", forward=forward(at(200, next_token))),
    mutant("tokens see the end of their chunk of 64", forward=forward(chunk_end(64))),
    mutant(
        "the mask hides one key too few",
        ATTEND,
        mix=lambda s, q, k, v, d, h, w: type(s).__mro__[1].mix(s, q, torch.roll(k, -1, 1), v, d, h, w),
    ),
    mutant("documents are ignored", forward=marks(lambda document_starts, state: None)),
    mutant("the first row's documents for all rows", forward=marks(first_starts)),
    mutant("the first row's documents for all rows", MLSTM, forward=marks(first_starts)),
    mutant("a document at position 0 is ignored when a state is carried", forward=marks(no_start_at_0)),
    mutant(
        "documents after position 128 are ignored",
        forward=marks(lambda document_starts, state: document_starts & (torch.arange(document_starts.shape[1]) < 128)),
    ),
    mutant(
        "a document begins one token late", forward=marks(lambda document_starts, state: document_starts.roll(1, 1))
    ),
    mutant("rows are mixed", forward=forward(as_rows)),
    mutant("rows are mixed in calls of 100 tokens and more", forward=longer(100, as_rows)),
    mutant("outputs depend on how many rows there are", forward=forward(lambda s, x, y, *_: y * (1 + len(x) / 1e3))),
    mutant("the last row is another's", forward=forward(lambda s, x, y, *_: torch.cat([y[:-1], y[:1]]))),
    mutant("half of the input's gradient", forward=forward(lambda s, x, y, *_: HalfGradient.apply(y))),
    mutant("half of a weight's gradient", forward=half_weight),
    mutant(
        "half of the gradient in calls of 100 tokens and more",
        forward=longer(100, lambda s, x, y, *_: HalfGradient.apply(y)),
    ),
    mutant(
        "half of the gradient in calls of 100 tokens and more",
        MLSTM,
        forward=longer(100, lambda s, x, y, *_: HalfGradient.apply(y)),
    ),
    mutant("gradients do not pass the 64th token", forward=detached_past),
    mutant(
        "no gradient reaches the weight",
        forward=forward(lambda s, x, y, *_: y if not y.requires_grad else y.detach() + x - x.detach()),
    ),
    mutant("a detached output", forward=forward(lambda s, x, y, *_: y.detach())),
    mutant(
        "a parameter that nothing uses",
        built=lambda layer: layer.register_parameter("spare", nn.Parameter(torch.zeros(3))),
    ),
    mutant("float64 is computed in fp32", forward=wide),
    mutant(
        "fp32 out for bf16 in", forward=forward(lambda s, x, y, *_: y.to(torch.promote_types(y.dtype, torch.float32)))
    ),
    mutant("fp32 out for float64 in", forward=forward(lambda s, x, y, *_: y.float())),
    mutant(
        "bf16 out under autocast",
        forward=forward(lambda s, x, y, *_: y.bfloat16() if torch.is_autocast_enabled("cpu") else y),
    ),
    mutant("infinite in bf16", forward=forward(lambda s, x, y, *_: y / (x.dtype != torch.bfloat16))),
    mutant("outputs depend on earlier calls", forward=forward(counting)),
    mutant("noise from the global generator", forward=forward(lambda s, x, y, *_: y + 1e-6 * torch.randn_like(y))),
    mutant("noise from Python's generator", forward=forward(lambda s, x, y, *_: y + 1e-6 * random.random())),
    mutant("outputs depend on the clock", forward=forward(lambda s, x, y, *_: y + 1e-6 * (time.perf_counter() % 1))),
    mutant("the input is modified", forward=scribbling),
    mutant("dropout in training", forward=forward(training_only)),
    mutant("another output in evaluation", forward=forward(lambda s, x, y, *_: y if s.training else 1.01 * y)),
    mutant(
        "another output without gradients",
        forward=forward(lambda s, x, y, *_: y if torch.is_grad_enabled() else 1.01 * y),
    ),
    mutant("a buffer that each call moves", built=buffered, forward=forward(moving_buffer)),
    mutant(
        "weights that the state_dict does not hold",
        built=unsaved,
        forward=forward(lambda s, x, y, *_: y + s.shift.to(y.dtype)),
    ),
    mutant("only memory that is contiguous", forward=forward(lambda s, x, y, *_: y + 0 * x.view(-1).sum())),
    mutant(
        "it reads memory as if it were contiguous",
        forward=forward(lambda s, x, y, *_: y + 1e-3 * x.as_strided(x.shape, (x.shape[1] * x.shape[2], x.shape[2], 1))),
    ),
    mutant("only multiples of four tokens", forward=blocked),
    mutant("not a number beyond 512 tokens", forward=longer(512, lambda s, x, y, *_: y * torch.nan)),
    mutant(
        "it cannot be built without memory",
        built=lambda layer: layer.register_parameter("gain", nn.Parameter(torch.ones(3, device="cpu"))),
        forward=forward(lambda s, x, y, *_: y * s.gain.mean().to(y.dtype)),
    ),
    mutant("a window of w sees w + 1", ATTEND, forward=windows(lambda w, x, s: (w or 24) + 1)),
    mutant("a window of w sees w - 1", ATTEND, forward=windows(lambda w, x, s: max(1, (w or 24) - 1))),
    mutant("the window is ignored", ATTEND, forward=windows(lambda w, x, s: 10**6 if s is None else None)),
    mutant("another default than the largest window", ATTEND, forward=windows(lambda w, x, s: w or 12)),
    mutant("windows above 128 are cut", ATTEND, forward=windows(lambda w, x, s: min(w or 24, 128))),
    mutant("it mixes, and says that it does not", is_mixer=False),
]
__all__ = ["MUTANTS", "RUNNING"]
