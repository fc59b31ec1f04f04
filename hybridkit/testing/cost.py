"""Law 5: the costs that a block states are those that independent counters see.

T tokens, D width. `exact` is the least that any form of the layer computes, so that

- a block that does not mix costs its products, or twice the elements of the weights that its output depends on (of a
  mixture of experts, the active experts alone);
- a mixer costs its linear layers on every token, plus exactly the products of its reference (`Block.cost_reference`);
- the cost of a mixer without a reference lies between bounds: a token adds at least its linear layers, and at most what
  the layer executes for that token from its state; a warning, `UnverifiedCost`, says so.
"""

import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor, nn

from hybridkit.block import Block, Count, Dims, Layer, clone_state
from hybridkit.testing.layer_under_test import LayerUnderTest, built, law
from hybridkit.testing.work import ExecutedWork, counted

COUNTS: tuple[Count, ...] = ("exact", "paper", "hardware")
COST_LENGTHS = (1, 48, 130)
COST_POSITIONS = (0, 40, 300, 999)  # tokens before the one whose cost is checked


class UnverifiedCost(UserWarning):
    """A mixer's FLOPs lie between bounds, but may still be wrong: it has no reference to compare with."""


def check_cost(block: Block, dims: Dims) -> None:
    """FLOPs are those that independent counters see. Warns of UnverifiedCost where only bounds can be checked."""
    _check_cost(block, dims)
    warn_unverified(block, dims)


def warn_unverified(block: Block, dims: Dims) -> None:
    """Warn where a mixer has no reference for its exact count."""
    if block.is_mixer and block.cost_reference(dims, COST_LENGTHS[0]) is None:
        said = f"unverified cost: {block} names no cost_reference, so its FLOPs were only checked against bounds"
        warnings.warn(said, UnverifiedCost, stacklevel=3)


@law
def _check_cost(block: Block, dims: Dims) -> None:
    trial = LayerUnderTest(block, dims)
    _idle(trial)
    for window in trial.all_windows:
        for tokens in COST_LENGTHS:
            _sane(trial, tokens, window)
        if not block.is_mixer:
            _tokenwise(trial)
        elif not _equals_reference(trial, window):
            _between_bounds(trial, window)
        _executed(trial, window)
    for other in _other_sizes(block, dims):
        _check_cost_elsewhere(block, other)


@law
def _check_cost_elsewhere(block: Block, dims: Dims) -> None:
    """Counts follow width and heads: what is right at one size may hold its numbers, or take one for another."""
    trial = LayerUnderTest(block, dims)
    window = trial.all_windows[0]
    if not block.is_mixer:
        _tokenwise(trial)
    elif not _equals_reference(trial, window):
        _between_bounds(trial, window)


def _other_sizes(block: Block, dims: Dims) -> Iterator[Dims]:
    """Sizes of other proportions that the block can be built with."""
    for other in replace(dims, width=3 * dims.width), replace(dims, width=2 * dims.width, heads=2 * dims.heads):
        with suppress(ValueError):  # its arguments do not suit that size
            built(block, other)
            yield other


def _sane(trial: LayerUnderTest, tokens: int, window: int | None) -> None:
    found = {count: trial.block.flops(trial.dims, tokens, window, count) for count in COUNTS}
    where = f"of {tokens} tokens, window {window}"
    none = trial.block.flops(trial.dims, 0, window)  # what decoding of the first token is counted from
    trial.check(none == 0, f"no tokens cost {none} FLOPs, window {window}")
    again = {count: trial.block.flops(trial.dims, tokens, window, count) for count in COUNTS}
    trial.check(again == found, f"FLOPs {where} are {found}, and {again} when asked again")
    trial.check(all(type(flops) is int for flops in found.values()), f"FLOPs {where} are whole numbers, not {found}")
    exact, paper, hardware = (found[count] for count in COUNTS)
    said = f"exact FLOPs {where} are {exact}"
    trial.check(hardware >= exact, f"{said}, and hardware {hardware}: no kernel executes less")
    trial.check(exact / 2 < paper <= 2 * exact or exact == 0, f"{said}, and paper {paper}: another layer's")


def _idle(trial: LayerUnderTest) -> None:
    """Weights that a call leaves unread are some of those that there are, and fewer the more tokens it has."""
    idle = [trial.block.idle_parameters(trial.dims, rows) for rows in (1, 2, 1000)]
    total = sum(weight.numel() for weight in trial.layer.parameters())
    said = f"idle_parameters of 1, 2 and 1,000 tokens are {idle}, of {total} parameters"
    trial.check(idle == sorted(idle, reverse=True) and all(type(n) is int and 0 <= n <= total for n in idle), said)
    if not trial.block.is_mixer:
        most = total - min(_reached(trial, trial.input(1, 3)[:, t : t + 1]) for t in range(3))
        trial.check(idle[0] <= most, f"{said}, where a token's output depends on all but {most}")


def _tokenwise(trial: LayerUnderTest) -> None:
    block, dims, tokens = trial.block, trial.dims, COST_LENGTHS[-1]
    one = block.flops(dims, 1)
    for n in COST_LENGTHS:
        trial.check(block.flops(dims, n) == n * one, f"{n} tokens cost other than {n} times one, and it does not mix")
    products = executed_work(trial, trial.input(1, tokens)).products
    x = trial.input(1, 3)
    reached = sum(2 * _reached(trial, x[:, t : t + 1]) for t in range(3)) / 3
    reference = block.cost_reference(dims, 1)
    if reference is not None:
        reached += counted(reference)
    right = one in (reached, products / tokens) and one <= reached
    said = f"{one} FLOPs a token; {products / tokens:g} of products run, {reached:g} are of weights that it depends on"
    trial.check(right, said)


def _reached(trial: LayerUnderTest, x: Tensor) -> int:
    """Elements of the matrices that the output of one token (1, 1, D) depends on, slice by slice of the first axis."""
    matrices = [weight for weight in trial.layer.parameters() if weight.dim() > 1]
    y = trial.run(x)[0]
    grads = torch.autograd.grad(y, matrices, torch.ones_like(y), allow_unused=True) if matrices else ()
    total = 0
    for weight, grad in zip(matrices, grads, strict=True):
        idle = torch.ones(len(weight), dtype=torch.bool) if grad is None else ~grad.flatten(1).any(1)
        slices = len(weight) if idle.any() and _depends(trial, x, y, weight, idle) else int((~idle).sum())
        total += slices * weight[0].numel()
    return total


@torch.no_grad()
def _depends(trial: LayerUnderTest, x: Tensor, y: Tensor, weight: Tensor, idle: Tensor) -> bool:
    """Whether large values in the slices without a gradient change the output, as those of a router do."""
    kept, draw = weight.detach().clone(), torch.Generator().manual_seed(0)
    large = 30 * torch.randn(weight.shape, dtype=weight.dtype, generator=draw)
    try:
        for other in (large, -large):
            weight[idle] = other[idle]
            if not torch.equal(trial.run(x)[0], y):
                return True
        return False
    finally:
        weight.copy_(kept)


def _equals_reference(trial: LayerUnderTest, window: int | None) -> bool:
    """Whether there is a reference; raises AssertionError where a count differs from it."""
    block, dims, known = trial.block, trial.dims, False
    for tokens in COST_LENGTHS:
        linear = linear_flops(trial.layer, dims, tokens)
        for count in COUNTS:
            reference = block.cost_reference(dims, tokens, window, count)
            if reference is None:
                continue
            known = known or count == "exact"
            said, right = block.flops(dims, tokens, window, count), counted(reference)
            parts = f"{linear} of linear layers and {right} of its reference"
            trial.check(said == linear + right, f"{count} FLOPs {said}, not {parts}; {tokens} tokens, window {window}")
    return known


@torch.no_grad()
def _between_bounds(trial: LayerUnderTest, window: int | None) -> None:
    block, dims = trial.block, trial.dims
    x, spent = trial.input(1, COST_POSITIONS[-1] + 1), []
    for place in COST_POSITIONS:
        state = trial.run(x[:, :place], window=window)[1] if place else None
        spent.append(executed_work(trial, x[:, place : place + 1], state, window))
    modules = linear_flops(trial.layer, dims, 1)
    linear = max(modules, spent[0].linear)
    added = [block.flops(dims, n + 1, window) - (block.flops(dims, n, window) if n else 0) for n in COST_POSITIONS]
    for place, flops, executed in zip(COST_POSITIONS, added, spent, strict=True):
        where = f"token {place} adds {flops} FLOPs, window {window}"
        trial.check(flops > modules and flops >= linear, f"{where}; its linear layers alone have {linear}")
        trial.check(flops <= executed.total, f"{where}, and the layer executes only {executed.total} for it")
        grown, right = flops - added[0], executed.products - spent[0].products
        trial.check(grown >= 0.75 * right, f"{where}, {grown} more than the first, where products grow by {right}")
    most = max(executed.total for executed in spent)
    for n in (48, 333, COST_POSITIONS[-1] + 1):
        flops, where = block.flops(dims, n, window), f"{n} tokens, window {window}"
        trial.check(linear * n <= flops <= most * n, f"{flops} FLOPs for {where}; a token has {linear} to {most}")


@torch.no_grad()
def _executed(trial: LayerUnderTest, window: int | None) -> None:
    """`hardware` is what kernels execute: no more than twice what this machine's form does, padding included."""
    tokens = COST_POSITIONS[-1] + 1
    hardware = trial.block.flops(trial.dims, tokens, window, "hardware")
    most = 2 * executed_work(trial, trial.input(1, tokens), None, window).total
    trial.check(hardware <= most, f"hardware FLOPs {hardware} of {tokens} tokens, window {window}; {most // 2} run")


@torch.no_grad()
def executed_work(trial: LayerUnderTest, x: Tensor, state: object = None, window: int | None = None) -> ExecutedWork:
    """What one call executes."""
    held = None if state is None else clone_state(state)  # type: ignore[arg-type]
    with ExecutedWork(trial.layer) as found:
        trial.run(x, held, window=window)
    return found


def linear_flops(layer: Layer, dims: Dims, tokens: int) -> int:
    """FLOPs of the layer's nn.Linear modules over one sequence, as torch's counter sees them on the meta device."""

    def run() -> None:
        for module in layer.modules():
            if isinstance(module, nn.Linear):
                weight = module.weight.to("meta")
                nn.functional.linear(weight.new_empty(tokens, module.in_features), weight)

    with torch.no_grad():
        return counted(run)


def mask_pairs(tokens: int, window: int | None) -> int:
    """Query-key pairs of a causal window, counted one by one."""
    return sum(0 <= q - k < (window or tokens) for q in range(tokens) for k in range(tokens))
