"""Law 9: an output has its input's type."""

import torch
from torch import Tensor, nn

from hybridkit.block import Block, Dims, State, clone_state
from hybridkit.testing.layer_under_test import AUTOCAST, Arithmetic, LayerUnderTest, law, random_starts

# Each type, and the relative error allowed: a layer may be ill-conditioned, or choose another expert.
TYPES = {torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float64: 1e-10}
SHARE = 0.45  # by which a gradient's length may differ: that of an ill-conditioned layer in bf16 does by .39


@law
def check_types(block: Block, dims: Dims) -> None:
    """In fp32, bf16 and float64, and under autocast: calls, calls from a state, steps and the decoder; finite too."""
    exact = LayerUnderTest(block, dims)
    for dtype, loose in TYPES.items():
        trial = LayerUnderTest(block, dims, Arithmetic(str(dtype).removeprefix("torch."), dtype, 0))
        for tokens in (1, 7, 70, 300):
            _types(trial, tokens)
        _same_results(trial, exact, loose)
        _same_gradients(trial, exact, min(SHARE, 50 * loose))
    trial = LayerUnderTest(block, dims, AUTOCAST)
    for tokens in (1, 70):
        _types(trial, tokens)
    _same_results(trial, exact, TYPES[torch.bfloat16])
    _same_gradients(trial, exact, SHARE)


@torch.no_grad()
def _same_results(trial: LayerUnderTest, exact: LayerUnderTest, loose: float) -> None:
    """Those of float64, roughly: each type may have a path of its own, which forgets something."""
    for tokens, share in ((7, 0.0), (300, 0.0), (300, 0.1)):
        marks = random_starts(2, tokens, share) if share else None
        own, right = (
            one.run(one.input(2, tokens), one.run(one.input(2, 9, seed=3))[1] if share else None, document_starts=marks)
            for one in (trial, exact)
        )
        far = (own[0].double() - right[0]).norm() / right[0].norm()
        said = f"off by {far:.2g} of the result in float64, {tokens} tokens{', documents' if share else ''}"
        trial.check(bool(far <= loose), said)
    x = trial.input(1, 300)
    louder = torch.cat([x[:, :150], 100 * x[:, 150:].flip(1)], 1)  # what leaks from there is large
    y, other = (trial.run(one)[0][:, :150].double() for one in (x, louder))
    trial.check(bool((other - y).norm() <= loose * y.norm()), "token 150 of 300 changes an earlier output")


def _same_gradients(trial: LayerUnderTest, exact: LayerUnderTest, bound: float) -> None:
    """Those of float64, roughly, along which they lie."""
    found, wanted = (_gradients(one, one.input(2, 70)) for one in (trial, exact))
    for name, right in wanted.items():
        share = float((found[name].double() * right).sum() / right.square().sum()) if right.any() else 1.0
        trial.check(abs(share - 1) <= bound, f"the {name} of 70 tokens is {share:.2g} times that in float64")


@law
def check_rounding(
    block: Block, dims: Dims, precision: Arithmetic, tokens: int = 70, ill_conditioned: float = 0
) -> None:
    """Outputs and gradients equal, to rounding, those in float64 for the same rounded weights and input.

    The error allowed is relative to the norm of the tensor, and twice as large for gradients, which pass the layer
    forward and backward. A layer may amplify rounding by more than that, whatever computes it. For one that does, the
    error may be `ill_conditioned` times what one rounding of every weight and input changes in float64.
    """
    trial, exact = LayerUnderTest(block, dims, precision), LayerUnderTest(block, dims)
    exact.layer.load_state_dict(trial.layer.state_dict())
    found, right = (_gradients(each, trial.input(2, tokens)) for each in (trial, exact))
    near = _moved(exact, trial.input(2, tokens)) if ill_conditioned else right
    for name in found:
        size = _size(right, name)
        error, own = (float((t[name].double() - right[name]).norm() / size) for t in (found, near))
        bound = max(ill_conditioned * own, precision.bound * (1 if name == "output" else 2))
        said = f"{name} of {tokens} tokens is off by {error:.3g} of its length, more than {bound:.3g}"
        trial.check(error <= bound, said)


def _moved(exact: LayerUnderTest, x: Tensor) -> dict[str, Tensor]:
    """Output and gradients after one rounding of every weight and of the input."""
    draw = torch.Generator().manual_seed(5)
    weights = exact.layer.state_dict()
    exact.layer.load_state_dict({name: _rounded(weight, draw) for name, weight in weights.items()})
    return _gradients(exact, _rounded(x, draw))


def _rounded(t: Tensor, draw: torch.Generator) -> Tensor:
    """t in float64, every number larger or smaller by 2^-9 of itself: the largest rounding of bf16."""
    up = torch.rand(t.shape, generator=draw, dtype=torch.float64) < 0.5
    return t.double() * (1 - 2.0**-9 + 2.0**-8 * up)


def _size(found: dict[str, Tensor], name: str) -> Tensor:
    """The norm of a tensor; for a bias at least that of a column of its matrix, since its gradient may cancel."""
    matrix = found.get(f"{name.removesuffix('bias')}weight") if name.endswith(".bias") else None
    own = found[name].norm()
    return own if matrix is None else torch.maximum(own, matrix.norm() / matrix.shape[-1] ** 0.5)


def _gradients(trial: LayerUnderTest, x: Tensor) -> dict[str, Tensor]:
    """The output, and the gradients of input and weights."""
    names, weights = zip(*trial.layer.named_parameters(), strict=True)
    x = x.to(trial.precision.dtype).requires_grad_()
    batch, tokens = x.shape[:2]
    y, _ = trial.run(x, document_starts=random_starts(batch, tokens, 0.03))
    slope = trial.input(batch, tokens, seed=3).to(y.dtype)
    grads = torch.autograd.grad(y, [x, *weights], slope, allow_unused=True)
    named = zip(("x", *names), grads, strict=True)
    return {"output": y.detach(), **{f"gradient of {name}": grad for name, grad in named if grad is not None}}


def _types(trial: LayerUnderTest, tokens: int) -> None:
    x, kind = trial.input(2, tokens), trial.precision.dtype
    states: list[State] = []

    def right(y: Tensor, state: State, call: str) -> None:
        said = f"{call} of {tokens} tokens gives {y.dtype} for {kind}"
        trial.check(y.dtype == kind, f"{said}; end it with y.to(x.dtype)")
        trial.check(bool(torch.isfinite(y).all()), f"{call} of {tokens} tokens is not finite")
        states.append(state)

    right(*trial.run(x, document_starts=random_starts(2, tokens)), "a call")
    right(*trial.run(x, states[0]), "a call from a state")
    learned = x.clone().requires_grad_()
    y, _ = trial.run(learned)
    trial.check(y.dtype == kind, f"a call that learns gives {y.dtype} for {kind}")
    (grad,) = torch.autograd.grad(y.sum(), learned)
    trial.check(bool(torch.isfinite(grad).all()), f"gradient of {tokens} tokens not finite")
    if trial.precision.autocast:
        return
    with torch.no_grad():
        held = trial.layer.reserve(clone_state(states[0]), tokens + 2)
        right(*trial.layer.step(x[:, :1], held), "a step")
        norm = nn.RMSNorm(x.shape[-1], eps=1e-6, dtype=kind)
        held = trial.layer.reserve(clone_state(states[0]), tokens + 2)
        right(*trial.layer.decoder(norm, rows=2)(x[:, :1], held), "the decoder")
        kinds, first = [t.dtype for t in trial.empty(2, tokens)], [t.dtype for t in states[0]]
        trial.check(kinds == first, f"state types {first}, where init_state says {kinds}")
