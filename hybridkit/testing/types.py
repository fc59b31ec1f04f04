"""Law 9: an output has its input's type."""

import torch
from torch import Tensor, nn

from hybridkit.block import Block, Dims, State
from hybridkit.testing.trial import AUTOCAST, Precision, Trial, clone, random_starts

TYPES = (torch.float32, torch.bfloat16, torch.float64)


def check_types(block: Block, dims: Dims) -> None:
    """In fp32, bf16 and float64, and under autocast: calls, calls from a state, steps and the decoder; finite too."""
    for dtype in TYPES:
        trial = Trial(block, dims, Precision(str(dtype).removeprefix("torch."), dtype, 0))
        for tokens in (1, 7, 70, 300):
            _types(trial, tokens)
    for tokens in (1, 70):
        _types(Trial(block, dims, AUTOCAST), tokens)


def _types(trial: Trial, tokens: int) -> None:
    x, kind = trial.input(2, tokens), trial.precision.dtype
    states: list[State] = []

    def right(y: Tensor, state: State, call: str) -> None:
        said = f"{call} of {tokens} tokens gives {y.dtype} for {kind}"
        trial.check(y.dtype == kind, f"{said}; end it with y.to(x.dtype)")
        trial.check(bool(torch.isfinite(y).all()), f"{call} of {tokens} tokens is not finite")
        states.append(state)

    right(*trial.run(x, starts=random_starts(2, tokens)), "a call")
    right(*trial.run(x, states[0]), "a call from a state")
    learned = x.clone().requires_grad_()
    y, _ = trial.run(learned)
    trial.check(y.dtype == kind, f"a call that learns gives {y.dtype} for {kind}")
    (grad,) = torch.autograd.grad(y.sum(), learned)
    trial.check(bool(torch.isfinite(grad).all()), f"gradient of {tokens} tokens not finite")
    if trial.precision.autocast:
        return
    with torch.no_grad():
        held = trial.layer.reserve(clone(states[0]), tokens + 2)
        right(*trial.layer.step(x[:, :1], held), "a step")
        norm = nn.RMSNorm(x.shape[-1], eps=1e-6, dtype=kind)
        held = trial.layer.reserve(clone(states[0]), tokens + 2)
        right(*trial.layer.decoder(norm, rows=2)(x[:, :1], held), "the decoder")
        kinds, first = [t.dtype for t in trial.empty(2, tokens)], [t.dtype for t in states[0]]
        trial.check(kinds == first, f"state types {first}, where init_state says {kinds}")
