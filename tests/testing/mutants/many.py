"""Faults that few rows, quiet tokens and float64 hide, and those of windows that are not said or were larger before."""

import torch

from hybridkit.block import Layer
from mutants.base import ATTEND, RUNNING, Sum, mutant
from mutants.calls import HalfGradient, forward
from mutants.experts import Mixture

BF16 = torch.bfloat16


def untold(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
    marks = None if window is None else document_starts
    return self.right(x, state, window=window, document_starts=marks)


def remembers(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
    y, after = self.right(x, state, window=window, document_starts=document_starts)
    return y, after if state is None else after._replace(window=state.window.clone())


def bounded(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
    y, after = self.right(x, state, window=window, document_starts=document_starts)
    return y, Sum(after.total.clamp(-200, 200))


def padded(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
    y, after = self.right(x, state, window=window, document_starts=document_starts)
    return y, Sum(after.total.masked_fill((x == 0).all(-1).any(1, keepdim=True), 0))


def cut_off(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
    before = Sum(state.total.detach()) if state is not None and x.shape[1] > 100 else state
    return self.right(x, before, window=window, document_starts=document_starts)


def naive(self, q, k, v, document, hidden, window):  # type: ignore[no-untyped-def]
    tokens, keys = q.shape[1], k.shape[1]
    age = torch.arange(keys - tokens, keys)[:, None] - torch.arange(keys)
    seen = (age >= 0) & (age < window) & ~hidden[:, None]
    seen = seen & (document[:, keys - tokens :, None] == document[:, None])
    weights = (q @ k.mT / q.shape[-1] ** 0.5).exp() * seen
    return weights / weights.sum(-1, keepdim=True) @ v


def holding(most):  # type: ignore[no-untyped-def]
    """Tokens of a call beyond so many give zero."""

    def change(self, x, y, *given):  # type: ignore[no-untyped-def]
        place = torch.arange(x.shape[0] * x.shape[1]).view(*x.shape[:2], 1)
        return torch.where(place < most, y, 0)

    return forward(change)


def halved(when):  # type: ignore[no-untyped-def]
    """A gradient that is half as large where when(input)."""
    return forward(lambda self, x, y, *given: HalfGradient.apply(y) if when(x) else y)


def autocast() -> bool:
    return torch.is_autocast_enabled("cpu")


def mixed(self, x, y, *given):  # type: ignore[no-untyped-def]
    return y + 1e-3 * y.mean(0, keepdim=True) if len(x) > 5 else y


def wrong(y, x):  # type: ignore[no-untyped-def]
    """In batches of eight rows and more."""
    return y * 1.001 if len(x) > 7 else y


def decoder(self, norm, rows=1):  # type: ignore[no-untyped-def]
    right = Layer.decoder(self, norm, rows)

    def run(x, state):  # type: ignore[no-untyped-def]
        y, after = right(x, state)
        return wrong(y, x), after

    return run


def step(self, x, state):  # type: ignore[no-untyped-def]
    y, after = Layer.step(self, x, state)
    return wrong(y, x), after


WINDOWED = [
    mutant("without a window, documents are ignored", ATTEND, forward=untold),
    mutant("a state keeps the larger window of before", ATTEND, forward=remembers),
]
MUTANTS = [
    mutant("a state is clipped", RUNNING, forward=bounded),
    mutant("a padded token ends what the state holds", RUNNING, forward=padded),
    mutant("a state is detached in calls of more than 100 tokens", RUNNING, forward=cut_off),
    mutant("experts hold 4096 tokens", Mixture(), forward=holding(4096)),
    mutant("a call holds 4096 tokens", RUNNING, forward=holding(4096)),
    mutant("rows mixed from 6 rows on", RUNNING, forward=forward(mixed)),
    mutant("a step of 8 rows is another", RUNNING, step=step),
    mutant("a decoder of 8 rows is another", RUNNING, decoder=decoder),
    mutant("half the gradient in fp32", forward=halved(lambda x: x.dtype == torch.float32 and not autocast())),
    mutant("half the gradient in bf16", forward=halved(lambda x: x.dtype == BF16)),
    mutant("half the gradient under autocast", forward=halved(lambda x: autocast())),
]
LOUD = mutant("scores of loud tokens overflow", ATTEND, mix=naive)
