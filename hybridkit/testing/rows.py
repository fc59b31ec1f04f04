"""Law 7: the rows of a batch do not influence each other."""

import itertools

import torch
from torch import Tensor

from hybridkit.block import Block, Dims, State, clone_state, state_like
from hybridkit.testing.layer_under_test import FLOAT64, Arithmetic, LayerUnderTest, law, random_starts, rows_of

ROWS = 3
MANY = (17, 300)  # rows, tokens: more than 4096 together, where some kernels and experts end what they hold


@law
def check_rows(block: Block, dims: Dims, precision: Arithmetic = FLOAT64) -> None:
    """Outputs, states and gradients of a row are those of the row alone, each row with its own documents.

    Weights have the sum of the rows' gradients.
    """
    trial = LayerUnderTest(block, dims, precision)
    for tokens, window in itertools.product((1, 70, 300), trial.some_windows):
        _as_alone(trial, tokens, window)
    _many(trial)


def _as_alone(trial: LayerUnderTest, tokens: int, window: int | None) -> None:
    x, earlier = trial.input(ROWS, tokens), trial.input(ROWS, 25, seed=4)
    document_starts, slope = random_starts(ROWS, tokens, 0.04), trial.input(ROWS, tokens, seed=6)
    document_starts[1] = False  # one row is one document
    _, state = trial.run(earlier, window=window, document_starts=random_starts(ROWS, 25))
    state = state_like(state, [tensor.detach() for tensor in state])
    for before in (None, state):
        y, after, (grad, *weights) = _call(trial, x, before, window, document_starts, slope)
        sums = [torch.zeros_like(one) for one in weights]
        for row in range(ROWS):
            own = slice(row, row + 1)
            held = None if before is None else rows_of(before, row, row + 1)
            alone, left, (own_grad, *own_weights) = _call(trial, x[own], held, window, document_starts[own], slope[own])
            sums = [one + other for one, other in zip(sums, own_weights, strict=True)]
            where = f"row {row} of {ROWS}, {tokens} tokens, window {window}"
            trial.same(y[own], alone, f"outputs depend on other rows: {where}")
            trial.same_state(rows_of(after, row, row + 1), left, f"the state depends on other rows: {where}")
            trial.same(grad[own], own_grad, f"gradients depend on other rows: {where}")
        if trial.precision.dtype == torch.float64:  # where terms cancel, rounding is relative to them, not to the sum
            for (name, _), one, other in zip(trial.layer.named_parameters(), weights, sums, strict=True):
                trial.same(one, other, f"the gradient of {name} is not the sum of the rows', {tokens} tokens")
    _other_order(trial, x, state, window, document_starts)
    _steps(trial, x, state)


@torch.no_grad()
def _many(trial: LayerUnderTest) -> None:
    """The first and the last of many rows are those alone."""
    x, marks, window = trial.input(*MANY), random_starts(*MANY, 0.01), trial.some_windows[0]
    y, _ = trial.run(x, window=window, document_starts=marks)
    for row in (0, MANY[0] - 1):
        own = slice(row, row + 1)
        alone, _ = trial.run(x[own], window=window, document_starts=marks[own])
        trial.same(y[own], alone, f"outputs depend on other rows: row {row} of {MANY[0]}, {MANY[1]} tokens")


def _call(
    trial: LayerUnderTest, x: Tensor, state: State | None, window: int | None, document_starts: Tensor, slope: Tensor
) -> tuple[Tensor, State, list[Tensor]]:
    """Output, state after it, and the gradients of the input and of the weights."""
    x = x.clone().requires_grad_()
    y, after = trial.run(x, state, window=window, document_starts=document_starts)
    of = [x, *trial.layer.parameters()]
    grads = torch.autograd.grad(y, of, slope.to(y.dtype), allow_unused=True, materialize_grads=True)
    return y.detach(), state_like(after, [t.detach() for t in after]), list(grads)


def _other_order(trial: LayerUnderTest, x: Tensor, state: State, window: int | None, document_starts: Tensor) -> None:
    order = torch.arange(ROWS).roll(1)
    turned = state_like(state, [tensor[order] for tensor in state])
    y, after = trial.run(x[order], turned, window=window, document_starts=document_starts[order])
    right, left = trial.run(x, state, window=window, document_starts=document_starts)
    said = f"rows in another order give other results, {x.shape[1]} tokens, window {window}"
    trial.same(y, right[order], said)
    trial.same_state(after, state_like(left, [tensor[order] for tensor in left]), said)


@torch.no_grad()
def _steps(trial: LayerUnderTest, x: Tensor, state: State) -> None:
    """One step of all rows is a step of each."""
    times = MANY[0] // ROWS + 1  # the same rows several times: kernels for few rows are others than for many
    several = state_like(state, [tensor.repeat(times, *[1] * (tensor.dim() - 1)) for tensor in state])
    alone = [trial.layer.reserve(rows_of(state, row, row + 1), 200) for row in range(ROWS)]
    with trial.precision.on():
        y, _ = trial.layer.step(x[:, :1], trial.layer.reserve(clone_state(state), 200))
        all_rows, _ = trial.layer.step(x[:, :1].repeat(times, 1, 1), trial.layer.reserve(several, 200))
        each = torch.cat([trial.layer.step(x[row : row + 1, :1], held)[0] for row, held in enumerate(alone)])
    trial.same(y, each, "a step of one row depends on the others")
    trial.same(all_rows, each.repeat(times, 1, 1), f"a step of {ROWS * times} rows differs from one of each")
