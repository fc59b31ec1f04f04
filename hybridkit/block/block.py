"""What a pattern entry says: a kind of layer with its arguments, its cost and its state."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor

from hybridkit.block.from_attention import AttentionWeights, NoMapping, Start
from hybridkit.block.layer import Layer
from hybridkit.block.spec import ALL, Argument, Spec
from hybridkit.block.state import State
from hybridkit.block.window import GivenWindow, Window
from hybridkit.system.choices import Count, NormPlacement


@dataclass(frozen=True)
class Dims:
    """The sizes that a model shares: residual width, default number of heads, vocabulary, and mixers in the stack.

    `depth` only scales the initial weights of projections back onto the residual stream. `norm_eps` is added to mean
    squares in the model's RMS norms, and in those within a block that follow it.
    """

    width: int
    heads: int
    vocab: int
    depth: int = 1
    norm_eps: float = field(default=1e-6, repr=False)


class Block(Spec, ABC):
    """What a pattern entry says: a kind of layer with its arguments. Parameters and state bytes are derived from it.

    Every block takes the arguments in `options`, by key alone. They say how the model calls the layer, which knows
    nothing of them: `norm`, where the entry is normalized (None: as `model.norm` says), and the factors of the layer's
    input, after the norm, and of its output. The fields of a subclass have other names.
    """

    kind: ClassVar[str] = "block"
    options: ClassVar[tuple[str, ...]] = ("norm", "in_scale", "out_scale")
    sees_all: ClassVar[bool] = False  # True: its window may be `all`, no limit, and it has none without a policy
    has_window: ClassVar[bool] = False  # True: has a field `window: Window`, which the colon in a pattern fills
    keeps_tokens: ClassVar[bool] = False  # True: its state has rows for tokens, as keys and values; False: a fixed size
    is_mixer: ClassVar[bool] = True  # False: does not mix over time, and gets no FFN added after it
    differentiable_state: ClassVar[bool] = False  # True: gradients flow back through a carried state
    norm: NormPlacement | None = None
    in_scale: float = Field(1.0, gt=0)
    out_scale: float = Field(1.0, gt=0)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Raises TypeError where a field of the class has the name of an option."""
        for name in set(Block.options) & set(inspect.get_annotations(cls)):
            raise TypeError(f"{cls.__module__}: `{name}` is an argument of every block; call this field something else")

    @abstractmethod
    def build(self, dims: Dims) -> Layer:
        """The layer, on torch's current default device and dtype. Raises ValueError where `dims` do not fit."""

    def resolved(self, dims: Dims) -> Self:
        """The same block with the sizes that follow from `dims` written out, for whoever reads it without them.

        By default the field `heads`, which is the model's where it is None.
        """
        return self.model_copy(update={"heads": dims.heads}) if getattr(self, "heads", 1) is None else self

    @abstractmethod
    def flops(self, dims: Dims, tokens: int, window: GivenWindow = None, count: Count = "exact") -> int:
        """Forward FLOPs of one sequence of `tokens`, 2 per multiply-add. `window` None means the policy's largest.

        `exact` counts causal pairs in the window, `paper` the conventions of arXiv 2509.24552 Table 1, `hardware`
        what the kernels execute.
        """

    def cost_reference(
        self, dims: Dims, tokens: int, window: GivenWindow = None, count: Count = "exact"
    ) -> Callable[[], object] | None:
        """A function that runs, as matrix products, what `flops` counts beside nn.Linear modules.

        The laws compare `flops` with what torch's counter sees of it. None: there is no reference for this count.
        Without one for `exact`, the laws only check that a mixer's FLOPs lie between bounds.
        """
        return None

    def reach(self, window: GivenWindow = None) -> int | None:
        """How many positions, its own included, an output depends on at a window; None: maybe all before it."""
        return None if self.is_mixer else 1

    def idle_parameters(self, dims: Dims, rows: int = 1) -> int:
        """Elements of the weights that a call of so many tokens leaves unread: those of experts that none chooses.

        Of several tokens the expected number, where each chooses any experts alike.
        """
        return 0

    def init_state(
        self,
        dims: Dims,
        batch: int,
        tokens: int,
        window: GivenWindow = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """An empty state with room for `tokens`; it has the size in bytes of any state after so many tokens."""
        return ()

    def attention_weights(self, weights: Mapping[str, Tensor], dims: Dims) -> AttentionWeights:
        """The layer's weights, given by their names, as those of a softmax attention. Raises NoMapping for others."""
        raise NoMapping(f"{self.name()} is no softmax attention")

    def from_attention(self, attention: AttentionWeights, dims: Dims) -> Sequence[Start]:
        """What the layer begins with where it takes the place of a trained attention; all else stays as it is built.

        A function of the arguments alone; the tensors may be on the meta device. Raises NoMapping where a block of
        this kind has no such rule, and ValueError, with arguments that would fit, where the sizes do not.
        """
        raise NoMapping(f"{self.name()} has no mapping from attention")

    def check_sizes(self, attention: AttentionWeights, dims: Dims, **fitting: Any) -> None:
        """Raises ValueError unless these arguments have the values that fit an attention."""
        own = self.resolved(dims)
        if any(getattr(own, name) != value for name, value in fitting.items()):
            raise ValueError(f"{self} does not fit {attention}; write {self.model_copy(update=fitting)}")

    @classmethod
    def kernel(cls, device: str) -> tuple[str, str]:
        """Which kernel runs on a device type (`cpu`, `cuda`), and why: what `hybridkit doctor` prints."""
        return "torch", "plain torch operations"

    @classmethod
    def positional(cls) -> tuple[str, ...]:
        return tuple(name for name in cls.model_fields if name not in cls.options)

    def arguments(self) -> list[Argument]:
        said = [argument for argument in super().arguments() if not isinstance(argument[1], Window)]
        return sorted(said, key=lambda argument: argument[0] in self.options)

    def __str__(self) -> str:
        return super().__str__() + (f":{_short(window)}" if (window := window_of(self)) else "")


def _short(window: Window) -> str:
    """A policy as it is written after the colon: a fixed window as a bare number, but for `all`, which is none."""
    text, name = str(window), f"{window.name()}("
    return text[len(name) : -1] if window.name() == "fixed" and window.largest != ALL else text


def window_of(block: Block) -> Window | None:
    """The window policy that a pattern gave the block; None where blocks of its kind have none."""
    return block.window if block.has_window else None  # type: ignore[attr-defined]


class Entry(NamedTuple):
    """One element of the compiled stack: a block, or several side by side on the same normed input."""

    branches: tuple[Block, ...]

    @property
    def block(self) -> Block:
        """The block of an entry with one branch."""
        (block,) = self.branches
        return block

    @property
    def is_mixer(self) -> bool:
        """Whether it mixes over time."""
        return all(block.is_mixer for block in self.branches)

    @property
    def norm(self) -> NormPlacement | None:
        """Where it is normalized, the same in all branches; None: as the model says."""
        return self.branches[0].norm

    def __str__(self) -> str:
        return " | ".join(map(str, self.branches))
