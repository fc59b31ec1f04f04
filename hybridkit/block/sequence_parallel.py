"""How a training sequence is divided among processes."""

from __future__ import annotations

from torch import Tensor


class SequenceParallel:
    """How a training sequence is divided among processes. In this class, one process holds all of it.

    A subclass divides it: each process projects its own range of tokens, works on all tokens for its own heads, and
    projects its own tokens back. `gather` and `scatter` exchange the tokens in between.
    """

    ranks: int = 1  # how many processes share a sequence

    def begin(self, tokens: int) -> int:
        """The position of this process's first token, where each process holds `tokens`."""
        return 0

    def gather(self, x: Tensor) -> Tensor:
        """Own tokens of all heads (B, T, H, .) to all tokens of own heads."""
        return x

    def scatter(self, x: Tensor) -> Tensor:
        """Back: all tokens of own heads (B, T, H, .) to own tokens of all heads."""
        return x

    def own_heads(self, x: Tensor) -> Tensor:
        """What belongs to own heads of a tensor that all processes hold whole, one entry a head (H, .)."""
        return x
