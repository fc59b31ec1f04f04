"""How a training sequence lies over processes."""

from __future__ import annotations

from torch import Tensor


class SequenceParallel:
    """How a training sequence lies over processes. This class: one process holds all of it.

    Where several share it, each projects its own stretch of tokens, works on all tokens of its own heads, and projects
    its own tokens back; `gather` and `scatter` are the exchanges between.
    """

    def begin(self, tokens: int) -> int:
        """The position of this process's first token, if each holds so many."""
        return 0

    def gather(self, x: Tensor) -> Tensor:
        """Own tokens of all heads (B, T, H, .) to all tokens of own heads."""
        return x

    def scatter(self, x: Tensor) -> Tensor:
        """Back: all tokens of own heads (B, T, H, .) to own tokens of all heads."""
        return x
