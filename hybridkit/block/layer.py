"""A built block: the module that training, prefill and decoding call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor, nn

from hybridkit.block.sequence_parallel import SequenceParallel
from hybridkit.block.state import State
from hybridkit.block.window import GivenWindow

StepFunction = Callable[[Tensor, State], tuple[Tensor, State]]  # one token (B, 1, D); may change the state in place


class Layer(nn.Module, ABC):
    """A built block: one method for training, prefill, chunked prefill and decoding.

    The split law: for any cut, `f([a, b])` equals `f(a)` followed by `f(b)` from the state after `a`, to rounding.
    """

    supports_sequence_parallel: ClassVar[bool] = False  # True: exchanges tokens by `sequence_parallel`
    sequence_parallel = SequenceParallel()

    @abstractmethod
    def forward(
        self,
        x: Tensor,  # (B, T, D)
        state: State | None = None,
        *,
        window: GivenWindow | Tensor = None,
        document_starts: Tensor | None = None,  # (B, T) bool: a document begins here and sees nothing earlier
    ) -> tuple[Tensor, State]:
        """Outputs (B, T, D) and the state after them. `state` None means nothing came before; it is never modified.

        `window` None means the policy's largest (all positions where the block has no window). Raises ValueError for
        a window larger than the one a carried state was built with.
        """

    def reserve(self, state: State, tokens: int) -> State:
        """The same state with room for `tokens` in all, so that `step` can run up to that many.

        What it returns may share memory with `state`, which a step then changes: `clone_state` keeps it.
        """
        return state

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """`forward` of one token (B, 1, D), for decoding. It may change `state` in place: use only what it returns.

        The window is the one that `state` was built with. Where the state grows, call `reserve` first.
        """
        return self(x, state)

    def decoder(self, norm: nn.RMSNorm | None, rows: int) -> StepFunction:
        """A function that computes `x + step(norm(x))`, for decoding many tokens; without a norm `step(x)` alone, for
        an entry that normalizes or adds in another way.

        It may copy the current weights into a layout that is fast for a batch of `rows`; it must be right for any
        batch. It runs without gradients.
        """

        if norm is None:
            return self.step

        def run(x: Tensor, state: State) -> tuple[Tensor, State]:
            y, state = self.step(norm(x), state)
            return x + y, state

        return run

    def no_weight_decay(self) -> Sequence[nn.Module]:
        """Submodules without weight decay, such as gates. Biases and one-dimensional weights never have any."""
        return ()

    def balance(self, load: Tensor) -> None:
        """After an update: the loads that this layer told (`record`), summed over the step's calls and ranks."""
