"""What a pattern entry says: a kind of layer with its arguments, its cost and its state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch

from hybridkit.block.layer import Layer, State
from hybridkit.block.spec import Argument, Spec
from hybridkit.block.window import Window

Count = Literal["exact", "paper", "hardware"]


@dataclass(frozen=True)
class Dims:
    """The sizes that a model shares: residual width, default number of heads, vocabulary, and mixers in the stack.

    `depth` only scales the initial weights of projections back onto the residual stream.
    """

    width: int
    heads: int
    vocab: int
    depth: int = 1


class Block(Spec, ABC):
    """What a pattern entry says: a kind of layer with its arguments. Parameters and state bytes are derived from it."""

    kind: ClassVar[str] = "block"
    has_window: ClassVar[bool] = False  # True: has a field `window: Window`, which the colon in a pattern fills
    is_mixer: ClassVar[bool] = True  # False: does not mix over time, and gets no FFN added after it
    differentiable_state: ClassVar[bool] = False  # True: gradients pass through a carried state, to all that made it

    @abstractmethod
    def build(self, dims: Dims) -> Layer:
        """The layer, on torch's current default device and dtype. Raises ValueError where `dims` do not fit."""

    @abstractmethod
    def flops(self, dims: Dims, tokens: int, window: int | None = None, count: Count = "exact") -> int:
        """Forward FLOPs of one sequence of `tokens`, 2 per multiply-add; `window` None means the policy's largest.

        `exact` counts causal pairs in the window, `paper` the conventions of arXiv 2509.24552 Table 1, `hardware`
        what the kernels execute.
        """

    def cost_reference(
        self, dims: Dims, tokens: int, window: int | None = None, count: Count = "exact"
    ) -> Callable[[], object] | None:
        """What `flops` counts beside nn.Linear modules, as matrix products that torch's counter sees, for the laws.

        None: no reference for this count; without one for `exact`, a mixer's FLOPs are only held between bounds."""
        return None

    def init_state(
        self,
        dims: Dims,
        batch: int,
        tokens: int,
        window: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """A state that has seen nothing and has room for `tokens`: the bytes that any state holds after as many."""
        return ()

    @classmethod
    def kernel(cls, device: str) -> tuple[str, str]:
        """Which kernel runs on a device type (`cpu`, `cuda`), and why: what `hybridkit doctor` prints."""
        return "torch", "plain torch operations"

    def arguments(self) -> list[Argument]:
        return [argument for argument in super().arguments() if not isinstance(argument[1], Window)]

    def __str__(self) -> str:
        return super().__str__() + (f":{_short(window)}" if (window := window_of(self)) else "")


def _short(window: Window) -> str:
    """A policy as the colon takes it: a bare number for a fixed window."""
    text, name = str(window), f"{window.name()}("
    return text[len(name) : -1] if window.name() == "fixed" else text


def window_of(block: Block) -> Window | None:
    """The window policy that a pattern gave the block, if blocks of its kind have one."""
    return block.window if block.has_window else None  # type: ignore[attr-defined]


class Entry(NamedTuple):
    """One element of the compiled stack, pre-norm and residual."""

    block: Block
    window: Window | None
