"""Laws 2 and 3: an output depends on no later token and on no other document."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from hybridkit.block import Block, Dims, State
from hybridkit.testing.layer_under_test import FLOAT64, LONG_CALL, Arithmetic, LayerUnderTest, law, rows_of

LAYOUTS = (  # lengths of documents, row by row: 300 tokens, and LONG_CALL
    ((9, 1, 30, 70, 5, 130, 55), (300,), (140, 1, 1, 158)),
    ((500, 7, 593), (129, 971)),
)


@law
def check_causality(block: Block, dims: Dims, precision: Arithmetic = FLOAT64) -> None:
    """Law 2: changing the tokens from t on changes no output before t, and none out of `Block.reach`."""
    trial = LayerUnderTest(block, dims, precision)
    for tokens, places in ((50, (1, 17, 49)), (130, (1, 64, 101, 129)), (300, (77, 257)), (LONG_CALL, (3, 500, 1029))):
        for window in trial.windows if tokens < 100 else trial.some_windows:
            _no_later(trial, tokens, places, window)
    for window in trial.all_windows:
        _within_reach(trial, window)
    if sum(tensor.numel() for tensor in trial.empty(1, 2 * LONG_CALL)) > sum(
        t.numel() for t in trial.empty(1, LONG_CALL)
    ):
        _far(trial)


def _no_later(trial: LayerUnderTest, tokens: int, places: Sequence[int], window: int | None) -> None:
    x, fresh = trial.input(1, tokens), trial.input(1, tokens, seed=7)
    before = trial.run(x, window=window)[0]
    for t in places:
        after = trial.run(torch.cat([x[:, :t], fresh[:, t:]], 1), window=window)[0]
        where = f"of {tokens}, window {window}"
        trial.same(after[:, :t], before[:, :t], f"a token from {t} on {where}, changes an earlier output")
        trial.check(not torch.equal(after[:, t], before[:, t]), f"token {t} {where}, does not reach its own output")
        if not trial.block.is_mixer:
            other = torch.cat([fresh[:, :t], x[:, t:]], 1)
            said = f"an earlier token changes output {t} {where}, of a block that does not mix"
            trial.same(trial.run(other, window=window)[0][:, t:], before[:, t:], said)


def _within_reach(trial: LayerUnderTest, window: int | None) -> None:
    """An output depends on no more positions than `Block.reach` says."""
    reach = trial.block.reach(window)
    tokens = 300
    if reach is None or reach >= tokens:
        return
    trial.check(reach >= 1, f"reach is {reach} at a window of {window}; an output depends on its own token")
    x, end = trial.input(1, tokens), tokens - reach
    other = torch.cat([trial.input(1, end, seed=7), x[:, end:]], 1)
    y, changed = (trial.run(given, window=window)[0][:, -1] for given in (x, other))
    trial.same(changed, y, f"an output depends on more than the {reach} positions of `reach`, window {window}")


def _far(trial: LayerUnderTest) -> None:
    """A state that grows with every token keeps every token: the first one reaches the last output."""
    x = trial.input(1, LONG_CALL)
    other = x.clone()
    other[:, 0] = 4 * trial.input(1, 1, seed=7)[:, 0]
    y, changed = trial.run(x)[0][:, -1], trial.run(other)[0][:, -1]
    if trial.precision.dtype == torch.float64:  # a thousandth of a sum is below the rounding of bf16
        trial.check(
            not torch.equal(y, changed), f"token 0 does not reach output {LONG_CALL - 1}, though the state grows"
        )


@law
def check_documents(block: Block, dims: Dims, precision: Arithmetic = FLOAT64) -> None:
    """Law 3: packed documents, different in every row, give what each gives alone; so do the tokens after them."""
    trial = LayerUnderTest(block, dims, precision)
    for layout in LAYOUTS:
        for window in trial.windows if layout is LAYOUTS[0] else trial.some_windows:
            _same_documents(trial, layout, window)


def _same_documents(trial: LayerUnderTest, layout: Sequence[Sequence[int]], window: int | None) -> None:
    batch, tokens = len(layout), sum(layout[0])
    x, more, earlier = (trial.input(batch, n, seed) for n, seed in ((tokens, 1), (6, 2), (20, 3)))
    document_starts = torch.zeros(batch, tokens, dtype=torch.bool)
    for row, lengths in enumerate(layout):
        document_starts[row, [0, *itertools.accumulate(lengths[:-1])]] = True
    alone = torch.cat([_each(trial, torch.cat([x, more], 1), layout, row, window) for row in range(batch)])
    where = f"{tokens} tokens, window {window}"

    packed, state = trial.run(x, window=window, document_starts=document_starts)
    trial.same(packed, alone[:, :tokens], f"packed documents differ from each alone, {where}")
    after, _ = trial.run(more, state, window=window)
    trial.same(after, alone[:, tokens:], f"the last document goes on otherwise from a state, {where}")
    fresh = document_starts.clone()
    fresh[:, 0] = False
    trial.same(trial.run(x, window=window, document_starts=fresh)[0], packed, f"a first token needs a mark, {where}")

    _, state = trial.run(earlier, window=window)
    packed, _ = trial.run(x, state, window=window, document_starts=document_starts)
    trial.same(packed, alone[:, :tokens], f"an earlier document is seen through the state, {where}")
    _goes_on(trial, x, earlier, state, (document_starts, fresh), layout, window)


def _each(trial: LayerUnderTest, x: Tensor, layout: Sequence[Sequence[int]], row: int, window: int | None) -> Tensor:
    """Every document of a row in a call of its own (1, T, D); the last one ends with x."""
    begins = [0, *itertools.accumulate(layout[row][:-1])]
    cuts = itertools.pairwise([*begins, x.shape[1]])
    return torch.cat([trial.run(x[row : row + 1, a:b], window=window)[0] for a, b in cuts], 1)


def _goes_on(
    trial: LayerUnderTest,
    x: Tensor,
    earlier: Tensor,
    state: State,
    marks: tuple[Tensor, Tensor],  # with and without one at the first token
    layout: Sequence[Sequence[int]],
    window: int | None,
) -> None:
    """Row 0 goes on with the document that its state holds; the last row begins a new one."""
    document_starts = marks[0].clone()
    document_starts[0] = marks[1][0]
    packed, _ = trial.run(x, state, window=window, document_starts=document_starts)
    first = layout[0][0]
    joined = trial.run(torch.cat([earlier, x], 1)[:1, : earlier.shape[1] + first], window=window)[0]
    trial.same(packed[:1, :first], joined[:, earlier.shape[1] :], f"a document does not go on from a state, {window=}")
    last = len(x) - 1
    own, _ = trial.run(x[last:], rows_of(state, last, last + 1), window=window, document_starts=document_starts[last:])
    trial.same(packed[last:], own, f"a row's documents are another row's, window {window}")
