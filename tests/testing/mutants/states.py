"""Faults of what is carried: sizes, copies, steps and decoders."""

import torch

from hybridkit.block import Layer
from hybridkit_blocks.mlstm import Mlstm, MlstmState
from hybridkit_blocks.sa import SelfAttention
from mutants.base import ATTEND, RUNNING, AttendLayer, Keys, Sum, mutant

MLSTM, SA = Mlstm(), SelfAttention()


def returning(change):  # type: ignore[no-untyped-def]
    """A forward that returns another state: change(x, given state, state after)."""

    def run(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
        y, after = self.right(x, state, window=window, document_starts=document_starts)
        return y, change(x, state, after)

    return run


def given(change):  # type: ignore[no-untyped-def]
    """A forward that reads another state than it is given."""

    def run(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
        return self.right(x, change(state), window=window, document_starts=document_starts)

    return run


def scribbled(x, state, after):  # type: ignore[no-untyped-def]
    if state is not None:
        with torch.no_grad():
            state.total.copy_(after.total)
    return after


def sized(size):  # type: ignore[no-untyped-def]
    """An `init_state` of size(dims, batch, tokens)."""

    def init_state(self, dims, batch, tokens, window=None, *, device=None, dtype=None):  # type: ignore[no-untyped-def]
        return Sum(torch.zeros(size(dims, batch, tokens), device=device, dtype=dtype))

    return init_state


def grown(x, state, after):  # type: ignore[no-untyped-def]
    return after if x.shape[1] <= 256 else Sum(torch.cat([after.total, after.total], 1))


def reading_half(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
    if state is not None:
        state = Sum(state.total[:, : x.shape[2]])
    y, after = self.right(x, state, document_starts=document_starts)
    return y, grown(x, state, after)


def step(change):  # type: ignore[no-untyped-def]
    def run(self, x, state):  # type: ignore[no-untyped-def]
        y, after = self(x, state)
        return change(x, y, state), after

    return run


def aliasing(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
    y, after = self.right(x, state, window=window, document_starts=document_starts)
    return y, Keys(x.detach()[:, x.shape[1] - after.k.shape[1] :] if state is None else after.k, *after[1:])


def in_place(self, x, state):  # type: ignore[no-untyped-def]
    y, after = self(x, state)
    state.total.copy_(after.total)
    return y, state


def same_memory(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
    y, after = self.right(x, state, window=window, document_starts=document_starts)
    if state is not None and torch.equal(after.total.round(), state.total.round()):
        return y, state
    return y, Sum(y[:, -1])


def looser(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
    if state is not None:
        state = state._replace(window=torch.full_like(state.window, 10**6))
    return self.right(x, state, window=window, document_starts=document_starts)


def wrong_where(window: int, seen: int):  # type: ignore[no-untyped-def]
    """A step that is right but for rows with this window that see so many keys."""

    def run(self, x, state):  # type: ignore[no-untyped-def]
        y, after = AttendLayer.step(self, x, state)
        wrong = (state.window == window) & ((~state.hidden).sum(1) == seen)
        return y * (1 + wrong[:, None, None]), after

    return run


def decoder(change):  # type: ignore[no-untyped-def]
    """A decoder that is right but for change(y, x)."""

    def make(self, norm, rows):  # type: ignore[no-untyped-def]
        def run(x, state):  # type: ignore[no-untyped-def]
            y, state = self.step(norm(x), state)
            return change(x + y, x, rows), state

        return run if norm else self.step

    return make


def learning(self, x, state):  # type: ignore[no-untyped-def]
    """It fails under inference_mode, where no gradient is to be had."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        torch.autograd.grad((leaf * 2).sum(), leaf)
    return self.right(x, state)


def adding(self, norm, rows):  # type: ignore[no-untyped-def]
    def run(x, state):  # type: ignore[no-untyped-def]
        y, state = self.step(norm(x) if norm else x, state)
        return x + y, state

    return run


def spoiling(self, norm, rows):  # type: ignore[no-untyped-def]
    def run(x, state):  # type: ignore[no-untyped-def]
        y, state = self.step(x, state)
        x.mul_(2)
        return y, state

    return Layer.decoder(self, norm, rows) if norm else run


def plain_norm(self, norm, rows):  # type: ignore[no-untyped-def]
    def run(x, state):  # type: ignore[no-untyped-def]
        y, state = self.step(torch.nn.functional.rms_norm(x, x.shape[-1:], eps=1e-6), state)
        return x + y, state

    return run


def hundred(self, state, tokens):  # type: ignore[no-untyped-def]
    return state if tokens < 100 else Sum(0 * state.total)


MUTANTS = [
    mutant("the state is not read", forward=given(lambda state: None)),
    mutant(
        "a state that is not read once it is large",
        forward=given(lambda state: state if state is None or state.total.abs().max() < 12 else None),
    ),
    mutant("the state is modified", forward=returning(scribbled)),
    mutant(
        "the state is a token behind",
        forward=returning(lambda x, state, after: after if x.shape[1] > 1 or state is None else state),
    ),
    mutant("the state's rows in another order", forward=returning(lambda x, state, after: Sum(after.total.roll(1, 0)))),
    mutant("one row of the state too few", forward=returning(lambda x, state, after: Sum(after.total[:1]))),
    mutant("the state is detached", forward=returning(lambda x, state, after: Sum(after.total.detach()))),
    mutant(
        "the state is detached",
        MLSTM,
        forward=returning(lambda x, state, after: MlstmState(*(t.detach() for t in after))),
    ),
    mutant(
        "the state is detached",
        SA,
        forward=returning(lambda x, state, after: after._replace(k=after.k.detach(), v=after.v.detach())),
    ),
    mutant(
        "half of a state's gradient",
        forward=returning(lambda x, state, after: Sum(after.total / 2 + after.total.detach() / 2)),
    ),
    mutant("init_state is too large", init_state=sized(lambda dims, batch, tokens: (batch, 2 * dims.width))),
    mutant("init_state ignores the batch", init_state=sized(lambda dims, batch, tokens: (1, dims.width))),
    mutant("init_state is always of two rows", init_state=sized(lambda dims, batch, tokens: (2, dims.width))),
    mutant(
        "init_state grows and the state does not",
        init_state=sized(lambda dims, batch, tokens: (batch, dims.width * (1 + tokens // 256))),
    ),
    mutant("the state grows beyond 256 tokens", forward=reading_half),
    mutant(
        "the state grows beyond 256 tokens, and init_state says so",
        forward=reading_half,
        init_state=sized(lambda dims, batch, tokens: (batch, dims.width * (1 + (tokens > 256)))),
    ),
    mutant(
        "the state has fp32 where init_state says bf16",
        forward=returning(lambda x, state, after: Sum(after.total.to(torch.promote_types(x.dtype, torch.float32)))),
    ),
    mutant(
        "init_state forgets the device",
        init_state=lambda self, dims, batch, tokens, window=None, *, device=None, dtype=None: Sum(
            torch.zeros(batch, dims.width, dtype=dtype)
        ),
    ),
    mutant("the state is not one of init_state's kind", forward=returning(lambda x, state, after: (after.total,))),
    mutant(
        "an empty state is not nothing",
        init_state=lambda self, dims, batch, tokens, window=None, *, device=None, dtype=None: Sum(
            torch.ones(batch, dims.width, device=device, dtype=dtype)
        ),
    ),
    mutant("the state is the memory of the input", ATTEND, forward=aliasing),
    mutant("steps modify the state that came before", forward=same_memory, step=in_place),
    mutant(
        "a state keeps one key too few",
        ATTEND,
        forward=returning(
            lambda x, state, after: Keys(after.k[:, 1:], after.v[:, 1:], after.hidden[:, 1:], after.window)
        ),
    ),
    mutant("a carried state takes a larger window", ATTEND, forward=looser),
    mutant("a step of twice the input", step=lambda self, x, state: self(2 * x, state)),
    mutant("a step that is wrong for many rows", step=step(lambda x, y, state: y if len(x) < 3 else y.roll(1, 0))),
    mutant("a step that forgets its state", step=lambda self, x, state: (self(x, state)[0], state)),
    mutant(
        "a step that is wrong once the sum is large",
        step=step(lambda x, y, state: y * (1 + 1e-3 * (state.total.abs().amax() > 20))),
    ),
    mutant("a step that is wrong for the first token at a window of 2", ATTEND, step=wrong_where(2, seen=0)),
    mutant("a step that is wrong where a window of 200 is full", ATTEND, step=wrong_where(200, seen=199)),
    mutant("a decoder without the norm's weight", decoder=plain_norm),
    mutant("a decoder that adds x without a norm", decoder=adding),
    mutant("a step that asks for gradients", step=learning),
    mutant("a decoder that changes its input", decoder=spoiling),
    mutant("a decoder without the residual", decoder=decoder(lambda y, x, rows: y - x)),
    mutant(
        "a decoder for the rows it was told alone",
        decoder=decoder(lambda y, x, rows: y if len(x) == rows else 1.01 * y),
    ),
    mutant("a decoder that is wrong for three rows", decoder=decoder(lambda y, x, rows: y if rows < 3 else y.flip(0))),
    mutant("reserve drops what was seen", reserve=lambda self, state, tokens: Sum(0 * state.total)),
    mutant("reserve drops what was seen when much is asked for", reserve=hundred),
]
__all__ = ["MUTANTS", "RUNNING"]
