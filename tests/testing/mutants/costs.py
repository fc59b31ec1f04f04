"""Faults of FLOPs."""

from dataclasses import replace

from hybridkit.block import Block
from hybridkit_blocks.ffn import FeedForward
from hybridkit_blocks.mlstm import Mlstm
from hybridkit_blocks.sa import SelfAttention
from hybridkit_blocks.swa import SlidingWindowAttention
from hybridkit_blocks.windows.fixed import Fixed
from mutants.base import ATTEND, RUNNING, mutant

MLSTM, SA, FFN, SWA = Mlstm(), SelfAttention(), FeedForward(), SlidingWindowAttention(window=Fixed(window=16))


def flops(change, block: Block = RUNNING):  # type: ignore[no-untyped-def]
    """Other FLOPs: change(right ones, dims, tokens, window, count)."""
    right = type(block).flops

    def said(self, dims, tokens, window=None, count="exact"):  # type: ignore[no-untyped-def]
        return change(right(self, dims, tokens, window, count), dims, tokens, window, count)

    return said


def of_first_width(block: Block):  # type: ignore[no-untyped-def]
    """FLOPs that are right for one width alone."""
    right, seen = type(block).flops, list[int]()

    def said(self, dims, tokens, window=None, count="exact"):  # type: ignore[no-untyped-def]
        seen.append(dims.width)
        return right(self, replace(dims, width=seen[0]), tokens, window, count)

    return said


def wrong(fault: str, change, *blocks: Block):  # type: ignore[no-untyped-def]
    return [mutant(f"{fault}: {type(block).__name__}", block, flops=flops(change, block)) for block in blocks]


def only(kind: str, factor: float):  # type: ignore[no-untyped-def]
    """One count alone is off."""
    return lambda n, dims, tokens, window, count: int(n * factor) if count == kind else n


MUTANTS = [
    *wrong("FLOPs halved", lambda n, *_: n // 2, RUNNING, ATTEND, MLSTM, SA, FFN),
    *wrong("FLOPs tenfold", lambda n, *_: 10 * n, RUNNING, ATTEND, MLSTM, SWA, FFN),
    *wrong("FLOPs quadratic", lambda n, dims, tokens, *_: n * tokens, RUNNING, MLSTM, FFN),
    *wrong("a quadratic term", lambda n, dims, tokens, *_: n + dims.width * tokens**2, RUNNING, MLSTM),
    *wrong("FLOPs of a token alone", lambda n, dims, tokens, *_: n // tokens, RUNNING, SA),
    *wrong("no FLOPs", lambda n, *_: 0, RUNNING, FFN),
    *wrong("FLOPs that are no whole numbers", lambda n, *_: float(n), RUNNING, FFN),
    *wrong("FLOPs below zero", lambda n, *_: -n, RUNNING),
    *wrong("one FLOP too many", lambda n, *_: n + 1, MLSTM, SA, SWA, FFN),
    *wrong("the linear layers alone", lambda n, dims, tokens, *_: 8 * dims.width**2 * tokens, ATTEND, SA),
    *wrong("FLOPs tenfold in long sequences", lambda n, dims, tokens, *_: n * (10 if tokens > 256 else 1), RUNNING),
    *wrong("tenfold paper FLOPs", only("paper", 10), RUNNING, SA),
    *wrong("no paper FLOPs", only("paper", 0), RUNNING, MLSTM),
    *wrong("fewer hardware FLOPs than exact", only("hardware", 0.9), RUNNING, FFN),
    *wrong("hundredfold hardware FLOPs", only("hardware", 100), RUNNING, MLSTM),
    *wrong("no tokens cost one", lambda n, dims, tokens, *_: n if tokens else 1, RUNNING, FFN),
    *wrong("heads in place of a 2", lambda n, dims, *_: n * dims.heads // 2, RUNNING, MLSTM, FFN),
    *[
        mutant(f"FLOPs of the width of the first trial: {type(block).__name__}", block, flops=of_first_width(block))
        for block in (RUNNING, SA, FFN)
    ],
    mutant(
        "FLOPs that ignore the window",
        ATTEND,
        flops=lambda self, dims, tokens, window=None, count="exact": type(ATTEND).flops(
            self, dims, tokens, 10**6, count
        ),
    ),
    mutant(
        "FLOPs of the largest window for all",
        SWA,
        flops=lambda self, dims, tokens, window=None, count="exact": type(SWA).flops(self, dims, tokens, None, count),
    ),
]
