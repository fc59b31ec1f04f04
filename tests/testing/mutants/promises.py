"""Faults of what a block says of itself, of how it is built, and of paths that one type or one kind of call takes."""

import torch
from torch import Tensor, nn

from hybridkit_blocks.ffn import FeedForward
from hybridkit_blocks.mlstm import Mlstm
from mutants.base import ATTEND, RUNNING, RunningLayer, Sum, mutant
from mutants.calls import HalfGradient, Plain, forward, longer
from mutants.states import returning

FFN, MLSTM = FeedForward(), Mlstm()
BF16, FP32 = torch.bfloat16, torch.float32
CALLS: list[int] = []
LAYERS: dict[int, RunningLayer] = {}
MEMORY: dict[object, Sum] = {}


def half(self, x, y, *given):  # type: ignore[no-untyped-def]
    return HalfGradient.apply(y)


def without_documents(change):  # type: ignore[no-untyped-def]
    return forward(lambda s, x, y, state, starts: y if starts is not None else change(s, x, y))


def of_type(kind, change):  # type: ignore[no-untyped-def]
    return forward(lambda s, x, y, *given: change(s, x, y) if x.dtype == kind else y)


def deaf_in(kind):  # type: ignore[no-untyped-def]
    """A forward that ignores documents in one type."""

    def run(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
        return self.right(x, state, window=window, document_starts=None if x.dtype == kind else document_starts)

    return run


class LastTokens(torch.autograd.Function):
    """The identity, whose gradient reaches the last 512 tokens alone."""

    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        return x.clone()

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return torch.cat([0 * grad[:, :-512], grad[:, -512:]], 1)


class TwoRows(torch.autograd.Function):
    """A product whose weight has the gradient of the first two rows."""

    @staticmethod
    def forward(ctx, x, weight):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        x, weight = ctx.saved_tensors
        grad = grad.to(weight.dtype)
        return grad @ weight, torch.einsum("btd,bte->de", grad[:2], x[:2])


class Projected(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.shared = [weight]

    def forward(self, x):  # type: ignore[no-untyped-def]
        return TwoRows.apply(x, self.shared[0].to(x.dtype))


def two_rows(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
    plain = Plain(self)
    plain.proj = Projected(self.proj.weight)  # type: ignore[assignment]
    kind = torch.promote_types(x.dtype, self.proj.weight.dtype)
    y, after = plain(x.to(kind), state and Sum(state.total.to(kind)), document_starts=document_starts)
    return y.to(x.dtype), Sum(after.total.to(x.dtype))


def frozen(self, x, y, *given):  # type: ignore[no-untyped-def]
    return y if self.proj.weight.requires_grad else y.detach() + 0 * x


def same_memory(self, dims, batch, tokens, window=None, *, device=None, dtype=None):  # type: ignore[no-untyped-def]
    empty = Sum(torch.zeros(batch, dims.width, device=device, dtype=dtype))
    return MEMORY.setdefault((batch, dims.width, str(device), dtype), empty)


def of_outputs(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
    y, _ = self.right(x, state, document_starts=document_starts)
    return y, Sum(y.clone()[:, -1])


def scratch(self, x, y, *given):  # type: ignore[no-untyped-def]
    if torch.is_grad_enabled():
        return y
    held = self.__dict__.setdefault("held", {})
    return held.setdefault((y.shape, y.dtype), torch.empty_like(y)).copy_(y)


def whole_windows(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
    window = self.largest if isinstance(window, torch.Tensor) else window
    return self.right(x, state, window=window, document_starts=document_starts)


def seeded(self, dims):  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    return RunningLayer(dims.width)


def shared(self, dims):  # type: ignore[no-untyped-def]
    layer = RunningLayer(dims.width)
    if not layer.proj.weight.is_meta:
        layer.proj.weight = LAYERS.setdefault(dims.width, layer).proj.weight
    return layer


def foreign(layer):  # type: ignore[no-untyped-def]
    type(layer).no_weight_decay = lambda self: (nn.Linear(1, 1),)


def other_flops(self, dims, tokens, window=None, count="exact"):  # type: ignore[no-untyped-def]
    CALLS.append(tokens)
    return type(RUNNING).flops(self, dims, tokens) + len(CALLS) % 2


MUTANTS = [
    mutant("half of the gradient without documents", forward=without_documents(half)),
    mutant("half of the gradient in calls of 600 tokens and more", forward=longer(600, half)),
    mutant("half of the gradient in calls of 600 tokens and more", MLSTM, forward=longer(600, half)),
    mutant("a gradient of the last 512 tokens alone", forward=longer(600, lambda s, x, y, *_: LastTokens.apply(y))),
    mutant(
        "half of the input's gradient from a state",
        differentiable_state=False,
        forward=forward(lambda s, x, y, state, starts: y if state is None else HalfGradient.apply(y)),
    ),
    mutant("a weight has the gradient of two rows", forward=two_rows),
    mutant("no gradient for the input where weights are frozen", forward=forward(frozen)),
    mutant("a leak in bf16 alone", forward=of_type(BF16, lambda s, x, y: y + x.mean(1, keepdim=True))),
    mutant("a leak in fp32 alone", forward=of_type(FP32, lambda s, x, y: y + 0.1 * x.mean(1, keepdim=True))),
    mutant("documents are ignored in fp32", forward=deaf_in(FP32)),
    mutant("documents are ignored in bf16", ATTEND, forward=deaf_in(BF16)),
    mutant(
        "twice the output under autocast",
        forward=forward(lambda s, x, y, *_: 2 * y if torch.is_autocast_enabled("cpu") else y),
    ),
    mutant("every empty state is the same memory", init_state=same_memory),
    mutant("the state keeps all outputs alive", forward=of_outputs),
    mutant(
        "the state keeps the input alive",
        forward=returning(lambda x, state, after: Sum(torch.cat([x, after.total[:, None]], 1)[:, -1])),
    ),
    mutant("outputs are written over by the next call", forward=forward(scratch)),
    mutant("a window in a tensor is the largest", ATTEND, forward=whole_windows),
    mutant("reach is too small", ATTEND, reach=lambda self, window=None: 4),
    mutant("reach is of a block that does not mix", reach=lambda self, window=None: 1),
    mutant("keeps_tokens, and its state does not grow", keeps_tokens=True),
    mutant("its state grows, and it keeps no tokens", ATTEND, keeps_tokens=False),
    mutant("more idle parameters than there are", FFN, idle_parameters=lambda self, dims, rows=1: 10**6),
    mutant("idle parameters that are read", FFN, idle_parameters=lambda self, dims, rows=1: 5 if rows == 1 else 0),
    mutant("more idle parameters the more tokens", idle_parameters=lambda self, dims, rows=1: min(rows, 9)),
    mutant("building it seeds the generator", build=seeded),
    mutant("all layers share their weights", build=shared),
    mutant("no weight decay of another module", built=foreign),
    mutant("other FLOPs every other time", flops=other_flops),
]
