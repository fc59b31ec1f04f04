"""A decoding step as one graph of a GPU: recorded once, replayed for every token.

A step launches some dozen small kernels a layer, and launching takes longer than running them. A graph replays all of
them on the same memory each time: tokens are copied into one place, states are changed where they are, and logits are
overwritten. So a graph lasts until the states are enlarged. A block whose `step` gives other tensors than it was given
cannot be replayed; then steps run as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from hybridkit.block import State, clone_state
from hybridkit.system.notices import building, tell

ModelStep = Callable[[Tensor, Sequence[State]], tuple[Tensor, Sequence[State]]]  # tokens (B,) to logits (B, V)


class Recorder(Protocol):
    """What records a function on a device."""

    def warm_up(self, run: Callable[[], object]) -> None:
        """Run it once, with all work that only a first run does."""

    def record(self, run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], object]]:
        """The result of `run`, and a function that repeats it on the same memory. Recording changes nothing there."""


class CudaRecorder:
    """CUDA graphs."""

    def warm_up(self, run: Callable[[], object]) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            run()
        torch.cuda.current_stream().wait_stream(side)

    def record(self, run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], object]]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            made = run()
        return made, graph.replay


def graph_step(plain: ModelStep, token: Tensor, states: Sequence[State], recorder: Recorder | None = None) -> ModelStep:
    """`plain`, a model's step, on these states as one graph; `plain` itself where that cannot be."""
    recorder, own = recorder or CudaRecorder(), token.clone()
    kept, after = [clone_state(state) for state in states], list[State]()

    def run() -> Tensor:
        logits, after[:] = plain(own, states)
        return logits

    with building("the graph of a decoding step"):
        recorder.warm_up(run)
        same = places(states) == places(after)
        _put_back(states, kept)
        if not same:
            return plain
        try:
            logits, replay = recorder.record(run)
        except RuntimeError as error:  # an operation that a graph cannot hold
            tell(f"decoding runs without a graph: {str(error).splitlines()[0]}")
            return plain

    def step(token: Tensor, given: Sequence[State]) -> tuple[Tensor, Sequence[State]]:
        own.copy_(token)
        replay()
        return logits, given

    return step


def places(states: Sequence[State]) -> list[list[int]]:
    """Where the tensors of states lie in memory."""
    return [[tensor.data_ptr() for tensor in state] for state in states]


def _put_back(states: Sequence[State], kept: Sequence[State]) -> None:
    for state, before in zip(states, kept, strict=True):
        for tensor, value in zip(state, before, strict=True):
            tensor.copy_(value)
