"""Laws 6 and 8: gradients exist for every length, and are those of finite differences."""

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hybridkit.block import Block, Dims, State
from hybridkit.testing.layer_under_test import FLOAT64, LONG_CALL, Arithmetic, LayerUnderTest, law, random_starts

LENGTHS = (1, 7, 63, 65, 1000)
DIFFERENCE = 1e-5  # of a central difference; its error is about its square, plus rounding divided by it
CLOSE = 1e-5  # relative to the gradient: a hundred times either error
TRIES = 3  # a difference may cross a kink (a maximum, a choice of experts), where there is no gradient

DOCUMENTS = 0.03  # the share of tokens that begin one

Tensors = Mapping[str, Tensor]
Given = tuple[int | None, float]  # the window, and the share of tokens that begin a document


@law
def check_lengths(block: Block, dims: Dims, precision: Arithmetic = FLOAT64) -> None:
    """Law 6: any length and batch; gradients are finite, and reach every input and parameter."""
    trial, reached = LayerUnderTest(block, dims, precision), set[str]()
    names, parameters = zip(*trial.layer.named_parameters(), strict=True) if _has_parameters(trial) else ((), ())
    for tokens, batch in itertools.product(LENGTHS, (1, 3)):
        x, where = trial.input(batch, tokens).requires_grad_(), f"{batch} rows of {tokens} tokens"
        y, _ = trial.run(x, document_starts=random_starts(batch, tokens))
        trial.check(y.shape == x.shape, f"output {tuple(y.shape)} for {tuple(x.shape)}")
        trial.check(bool(torch.isfinite(y).all()), f"output not finite, {where}")
        slope = trial.input(batch, tokens, seed=3)
        grads = torch.autograd.grad((y * slope).sum(), [x, *parameters], allow_unused=True)
        trial.check(grads[0] is not None and bool((grads[0] != 0).any(2).all()), f"no gradient of some input, {where}")
        finite = all(torch.isfinite(grad).all() for grad in grads if grad is not None)
        trial.check(finite, f"gradient not finite, {where}")
        reached |= {name for name, grad in zip(names, grads[1:], strict=True) if grad is not None and grad.any()}
    trial.check(reached == set(names), f"no gradient ever reaches {', '.join(sorted(set(names) - reached))}")


def _has_parameters(trial: LayerUnderTest) -> bool:
    return any(True for _ in trial.layer.parameters())


@law
def check_gradients(block: Block, dims: Dims) -> None:
    """Law 8: gradients equal finite differences along random directions, in float64.

    For the input and each parameter alone; for all together at several lengths, with documents and without; for the
    input of a call from a state; and through a carried state where the block has `differentiable_state`.
    """
    trial = LayerUnderTest(block, dims)
    for window in trial.some_windows:
        leaves = _leaves(trial, 2, 70)
        for name in leaves:
            _equal_differences(trial, leaves, [name], window)
        for tokens in (1, 65, 130, 300):
            leaves = _leaves(trial, 2, tokens)
            _equal_differences(trial, leaves, list(leaves), window)
        leaves = _leaves(trial, 2, 130)
        _equal_differences(trial, leaves, list(leaves), window, documents=0)
        _equal_differences(trial, {**leaves, "first": trial.input(2, 30, seed=12)}, ["x"], window)
        if block.differentiable_state:
            _through_states(trial, window)
    leaves = _leaves(trial, 1, LONG_CALL)
    _equal_differences(trial, leaves, list(leaves), trial.some_windows[-1], documents=0)


def _leaves(trial: LayerUnderTest, batch: int, tokens: int) -> dict[str, Tensor]:
    x = trial.input(batch, tokens)
    return {"x": x, **{name: weight.detach() for name, weight in trial.layer.named_parameters()}}


def _through_states(trial: LayerUnderTest, window: int | None) -> None:
    """The loss of a second call, and of the state after it, as a function of the first call's input and weights."""
    for before, after in ((9, 40), (150, 7), (70, 130)):
        first = {**_leaves(trial, 2, after), "first": trial.input(2, before, seed=12)}
        _equal_differences(trial, first, ["first"], window)
        _equal_differences(trial, first, list(first), window)


def _equal_differences(
    trial: LayerUnderTest, leaves: Tensors, names: Sequence[str], window: int | None, documents: float = DOCUMENTS
) -> None:
    """One direction in which only `names` change; another direction where there is a kink.

    `documents`: the share of tokens that begin one; 0: the layer is told of none.
    """
    found = []
    for seed in range(TRIES):
        slope, right, size = _both(trial, leaves, names, (window, documents), seed)
        if abs(slope - right) <= CLOSE * size:
            return
        found.append(f"{slope:.8g} not {right:.8g}")
    through = " through a carried state" if "first" in leaves else ""
    said = f"the gradient of {', '.join(names)}{through} differs from finite differences: {'; '.join(found)}"
    marks = "" if documents else ", no documents"
    raise AssertionError(trial.say(f"{said}; {leaves['x'].shape[1]} tokens, window {window}{marks}"))


def _both(
    trial: LayerUnderTest, leaves: Tensors, names: Sequence[str], given: Given, seed: int
) -> tuple[float, float, float]:
    """The slope by autograd, by a central difference, and the size of what is compared."""
    draw = torch.Generator().manual_seed(100 + seed)
    direction = {n: torch.randn(leaves[n].shape, dtype=torch.float64, generator=draw) for n in names}
    at = {name: leaf.clone().requires_grad_(name in names) for name, leaf in leaves.items()}
    loss, most = _loss(trial, at, given)
    grads = torch.autograd.grad(loss, [at[name] for name in names], allow_unused=True)
    pairs = [(grad, direction[name]) for grad, name in zip(grads, names, strict=True) if grad is not None]
    slope = sum(float((grad * along).sum()) for grad, along in pairs)
    size = sum(float(grad.norm()) for grad, _ in pairs)
    step = DIFFERENCE if leaves["x"].shape[1] < LONG_CALL else DIFFERENCE / 10  # products of many factors bend more
    ends = [
        float(_loss(trial, {n: x + s * step * direction[n] if n in names else x for n, x in leaves.items()}, given)[0])
        for s in (1, -1)
    ]
    right = (ends[0] - ends[1]) / (2 * step)
    return slope, right, max(size, abs(right)) + 2.0**-52 * most / step / CLOSE


def _loss(trial: LayerUnderTest, leaves: Tensors, given: Given) -> tuple[Tensor, float]:
    """A randomly weighted sum of the outputs (and of carried states), and the sum of its terms' absolute values."""
    x = leaves["x"]
    weights = {name: weight for name, weight in leaves.items() if name not in ("x", "first")}

    def call(x: Tensor, state: State | None) -> tuple[Tensor, State]:
        window, documents = given
        marks = random_starts(x.shape[0], x.shape[1], documents) if documents else None
        told = {"window": window, "document_starts": marks}
        made: tuple[Tensor, State] = torch.func.functional_call(trial.layer, weights, (x, state), told)
        return made

    carried = "first" in leaves
    y, state = call(x, call(leaves["first"], None)[1] if carried else None)
    held = [t for t in state if t.is_floating_point()] if carried and trial.block.differentiable_state else []
    terms = [t * torch.randn(t.shape, dtype=t.dtype, generator=torch.Generator().manual_seed(5)) for t in (y, *held)]
    return sum((term.sum() for term in terms), torch.zeros(())), sum(float(term.detach().abs().sum()) for term in terms)
