"""A built block: the module that training, prefill and decoding call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor, nn

from hybridkit.block.sequence_parallel import SequenceParallel
from hybridkit.block.window import GivenWindow

State = tuple[Tensor, ...]  # a NamedTuple of tensors, batch first; () for a block that carries nothing
StepFunction = Callable[[Tensor, State], tuple[Tensor, State]]  # one token (B, 1, D); the state is given away


class Layer(nn.Module, ABC):
    """A built block: one method for training, prefill, chunked prefill and decoding.

    The split law: for any cut, `f([a, b])` equals `f(a)` followed by `f(b)` from the state after `a`, to rounding.
    """

    supports_sequence_parallel: ClassVar[bool] = False  # True: asks `sequence_parallel` for what other processes hold
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
        """The same state with room for `tokens` in all, so that `step` can run until as many were seen."""
        return state

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """`forward` of one token (B, 1, D) by an owner who gives `state` away: it may be updated in place.

        The window is the one `state` was built with. Blocks whose state grows need `reserve` first.
        """
        return self(x, state)

    def decoder(self, norm: nn.RMSNorm, rows: int) -> StepFunction:
        """`x + step(norm(x))` for many tokens on a CPU: it may hold the weights, as they are now, in another layout.

        The layout may be the best for so many `rows`; others must be right too. Gradients are off wherever it runs.
        """

        def run(x: Tensor, state: State) -> tuple[Tensor, State]:
            y, state = self.step(norm(x), state)
            return x + y, state

        return run

    def no_weight_decay(self) -> Sequence[nn.Module]:
        """Submodules that weight decay leaves alone, as it does every bias and one-dimensional weight: gates."""
        return ()
