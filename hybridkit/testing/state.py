"""Law 4: a state has the stated size, no call modifies it, and it shares no memory with tensors that change."""

import itertools
from collections.abc import Sequence

import torch

from hybridkit.block import Block, Dims, State, clone_state, state_bytes, state_like, window_of
from hybridkit.testing.layer_under_test import FLOAT64, Arithmetic, LayerUnderTest, law

TOKENS = (1, 8, 33, 90, 257, 600)
SPARE = 2  # times its bytes that a state may keep alive: room that it grows into
SPAN = 512  # tokens between two sizes of a state that are compared


@law
def check_state(block: Block, dims: Dims, precision: Arithmetic = FLOAT64) -> None:
    """Its bytes are those of `init_state`, and stop growing; no call modifies it; an empty one changes no output.

    `keeps_tokens` says whether it grows; it keeps no other memory alive.
    """
    trial = LayerUnderTest(block, dims, precision)
    for batch in (1, 5):
        _same_sizes(trial, batch, (1, 33), trial.some_windows[0])
    for window in trial.all_windows:
        _same_sizes(trial, 2, TOKENS, window)
        _bounded(trial, window)
        _not_modified(trial, window)
        _own_memory(trial, window)


def _same_sizes(trial: LayerUnderTest, batch: int, lengths: Sequence[int], window: int | None) -> None:
    x, empty = trial.input(batch, max(lengths)), trial.empty(batch, 0, window)
    for tokens in lengths:
        y, state = trial.run(x[:, :tokens], window=window)
        room, where = trial.empty(batch, tokens, window), f"{batch} rows, {tokens} tokens, window {window}"
        shapes, right = ([tuple(t.shape) for t in held] for held in (state, room))
        trial.check(shapes == right, f"state shapes {shapes} are not those of init_state, {right}; {where}")
        trial.check(all(shape[0] == batch for shape in shapes), f"a state is batch first, not {shapes}; {where}")
        kinds, right_kinds = ([t.dtype for t in held] for held in (state, room))
        trial.check(
            trial.precision.autocast or kinds == right_kinds, f"state types {kinds}, not {right_kinds}; {where}"
        )
        for fresh in (empty, room):
            kept = clone_state(fresh)
            trial.same(trial.run(x[:, :tokens], fresh, window=window)[0], y, f"an empty state changes outputs, {where}")
            trial.check(_equal(fresh, kept), f"it modifies the empty state that it is given, {where}")
    on_meta = trial.empty(batch, tokens, window, device="meta")
    trial.check([tuple(t.shape) for t in on_meta] == right, f"another size on the meta device, {where}")
    trial.check(all(t.is_meta for t in on_meta), "init_state forgets the device")


def _bounded(trial: LayerUnderTest, window: int | None) -> None:
    """A state that has stopped growing does not grow again; one that grows does so evenly or more slowly."""
    bytes_at = [state_bytes(trial.empty(1, n * SPAN, window, device="meta")) for n in (0, 1, 2, 3, 20, 21)]
    grown = [b - a for a, b in itertools.pairwise(bytes_at[1:])]
    said = f"its state grows by {grown[0]}, {grown[1]} and later {grown[3]} bytes in {SPAN} tokens, window {window}"
    trial.check(grown[0] >= grown[1] >= grown[3], said)
    sizes = {n: state_bytes(trial.empty(1, n, window, device="meta")) for n in (1, 128, *range(192, 1200, 64), 10**5)}
    bounded = sizes[1] == sizes[128]
    trial.check(not bounded or len({*sizes.values()}) == 1, f"its state grows again, after 128 tokens: {sizes}")
    grows = sizes[10**5] > state_bytes(trial.empty(1, 0, window, device="meta"))
    said = f"its state {'grows' if grows else 'does not grow'} with the tokens, and keeps_tokens is {not grows}"
    trial.check(trial.block.keeps_tokens == grows or window == 1, said)
    if window_of(trial.block):
        limit = window or window_of(trial.block).largest  # type: ignore[union-attr]
        at_window, later = (state_bytes(trial.empty(1, n, window, device="meta")) for n in (limit, 10 * limit))
        trial.check(at_window == later, f"its state grows beyond the window {limit}")


def _not_modified(trial: LayerUnderTest, window: int | None) -> None:
    """A state that is passed in is changed by no call, by no steps on what that returns, and not by a changed input."""
    x, more = trial.input(2, 40), trial.input(2, 30, seed=2)
    y, state = trial.run(x, window=window)
    outputs, kept = y.clone(), clone_state(state)
    with torch.no_grad():
        _, after = trial.run(more, state, window=window)
        trial.check(_equal(state, kept), f"it modifies the state that it is given, window {window}")
        later = clone_state(after)
        _step(trial, after, more)
        trial.check(_equal(state, kept), f"steps on its new state modify the old one, window {window}")
        _, after = trial.run(more, state, window=window)
        more.fill_(7)
        trial.check(_equal(after, later), f"its state changes when its input is overwritten, window {window}")
        _step(trial, state, x)
        trial.check(_equal(after, later), f"steps on the old state modify the new one, window {window}")
    trial.check(torch.equal(y, outputs), f"steps on its state modify earlier outputs, window {window}")


@torch.no_grad()
def _own_memory(trial: LayerUnderTest, window: int | None) -> None:
    """A state holds no memory beyond its tensors, such as a call's outputs; every empty state has its own."""
    state = trial.run(trial.input(1, TOKENS[-1]), window=window)[1]
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in state}
    said = f"its state of {state_bytes(state)} bytes keeps {sum(held.values())} alive, window {window}; clone its parts"
    trial.check(sum(held.values()) <= SPARE * state_bytes(state), said)
    first = trial.empty(2, 0, window)
    kept = clone_state(first)
    for tensor in first:
        tensor.fill_(1)
    trial.check(_equal(trial.empty(2, 0, window), kept), "init_state gives the same memory twice; steps would fill it")


def _step(trial: LayerUnderTest, state: State, x: torch.Tensor) -> None:
    """Some steps that may change `state` in place."""
    state = trial.layer.reserve(state, 200)
    for t in range(5):
        with trial.precision.on():
            _, state = trial.layer.step(x[:, t : t + 1].clone(), state)


def _equal(a: State, b: State) -> bool:
    return all(map(torch.equal, a, state_like(a, list(b))))
