"""The vocabulary: what a block, a window policy and a layer are, and what they promise each other.

Letters of shapes, here and in every block: B batch, T tokens of this call, D width, H heads.
Units, stated once for everything that counts cost: FLOPs are *forward*, of one sequence, 2 per multiply-add;
states are sized in bytes, parameters in elements.

A block file holds one public `Block` class, and a window file one public `Window` class; the file's name is its name
in a pattern. Neither needs anything of hybridkit but this module. The laws they keep are in `hybridkit.testing`.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

Count = Literal["exact", "paper", "hardware"]
Value = int | float | str | bool | None
Argument = tuple[str | float | None, Value]  # (key, value); the key is None where the value stands by position
State = tuple[Tensor, ...]  # a NamedTuple of tensors, batch first; () for a block that carries nothing
Step = Callable[[Tensor, State], tuple[Tensor, State]]  # one token (B, 1, D); the state is given away


@dataclass(frozen=True)
class Dims:
    """The sizes that a model shares: residual width, default number of heads, vocabulary, and mixers in the stack.

    `depth` only scales the initial weights of projections back onto the residual stream.
    """

    width: int
    heads: int
    vocab: int
    depth: int = 1


@dataclass(frozen=True)
class Tick:
    """Where training stands. Steps count from 0; a step is one optimizer update."""

    seed: int
    step: int
    total_steps: int
    training: bool = True

    @property
    def progress(self) -> float:
        """The fraction of the run that lies before this step, in [0, 1)."""
        return self.step / self.total_steps

    def uniform(self, index: int | None = None) -> float:
        """A uniform number in [0, 1) that depends on (seed, step) and, where given, the layer's index, alone.

        Hashed rather than drawn, so that ranks, recomputation and resumed runs all see the same one.
        """
        digest = hashlib.blake2b(f"{self.seed}/{self.step}/{index}".encode(), digest_size=8).digest()
        return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


class Spec(BaseModel):
    """Something a pattern can say: frozen, hashable, unknown fields refused, printed as it is written."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def name(cls) -> str:
        """The name in a pattern: that of the file the class stands in."""
        return cls.__module__.rpartition(".")[2]

    @classmethod
    def read(cls, arguments: Sequence[Argument], **given: Any) -> Self:
        """Build from a call's arguments: those without a key fill the fields in order.

        Raises ValueError (pydantic's included) for too many, repeated, unknown or ill-typed arguments.
        """
        order = [field for field in cls.model_fields if field not in given]
        values: dict[str, Any] = dict(given)
        for place, (key, value) in enumerate(arguments):
            if key is None and place >= len(order):
                raise ValueError(f"{cls.name()} takes at most {len(order)} arguments: {', '.join(order)}")
            field = order[place] if key is None else str(key)
            if field in values:
                raise ValueError(f"{field} is given twice")
            values[field] = value
        return cls(**values)

    @classmethod
    def usage(cls) -> tuple[str, ...]:
        """How a call's arguments are written: `p=.5` for one with a default, `short` for one that must be given."""
        return tuple(
            name if field.is_required() else f"{name}={write_value(field.default)}"
            for name, field in cls.model_fields.items()
            if not (name == "window" and getattr(cls, "windowed", False))  # stands after the colon
        )

    def arguments(self) -> list[Argument]:
        """The arguments that say this object again: required fields by position, others by key unless default."""
        return [
            (None if field.is_required() else name, getattr(self, name))
            for name, field in type(self).model_fields.items()
            if field.is_required() or getattr(self, name) != field.default
        ]

    def __str__(self) -> str:
        said = ",".join(
            (f"{write_value(key)}=" if key is not None else "") + write_value(value) for key, value in self.arguments()
        )
        return f"{self.name()}({said})" if said else self.name()


def write_value(value: Value) -> str:
    """A number or word as a pattern writes it: .5, 1e-05, null, true, layer, "two words"."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return (
            value
            if value.isascii() and value.isidentifier() and value not in ("null", "true", "false")
            else json.dumps(value)
        )
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    text = repr(value)
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


class Window(Spec, ABC):
    """A window policy: which window a layer has at a step. Pure: it hashes, it never draws."""

    @abstractmethod
    def __call__(self, tick: Tick, index: int) -> int:
        """The window of entry `index` at this tick; `largest` outside training. Same answer on every rank."""

    @property
    @abstractmethod
    def largest(self) -> int:
        """The largest window the policy ever gives: the one used outside training."""

    @abstractmethod
    def shares(self) -> Mapping[int, float]:
        """The long-run share of training steps at each window; the shares add up to 1."""


class Block(Spec, ABC):
    """What a pattern entry says: a kind of layer with its arguments. Parameters and state bytes are derived from it."""

    windowed: ClassVar[bool] = False  # True: has a field `window: Window`, which the colon in a pattern fills
    mixes: ClassVar[bool] = True  # False: does not mix over time, and gets no FFN added after it
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
    return block.window if block.windowed else None  # type: ignore[attr-defined]


class Spread:
    """How a training sequence lies over processes. As written here it lies whole in one.

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


class Layer(nn.Module, ABC):
    """A built block: one method for training, prefill, chunked prefill and decoding.

    The split law: for any cut, `f([a, b])` equals `f(a)` followed by `f(b)` from the state after `a`, to rounding.
    """

    spreads: ClassVar[bool] = False  # True: a mixer that asks `spread` for what other processes hold
    spread = Spread()

    @abstractmethod
    def forward(
        self,
        x: Tensor,  # (B, T, D)
        state: State | None = None,
        *,
        window: int | Tensor | None = None,
        starts: Tensor | None = None,  # (B, T) bool: a document begins here and sees nothing earlier
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

    def decoder(self, norm: nn.RMSNorm, rows: int) -> Step:
        """`x + step(norm(x))` for many tokens on a CPU: it may hold the weights, as they are now, in another layout.

        The layout may be the best for so many `rows`; others must be right too. Gradients are off wherever it runs.
        """

        def run(x: Tensor, state: State) -> tuple[Tensor, State]:
            y, state = self.step(norm(x), state)
            return x + y, state

        return run

    def undecayed(self) -> Sequence[nn.Module]:
        """Submodules that weight decay leaves alone, as it does every bias and one-dimensional weight: gates."""
        return ()


class Entry(NamedTuple):
    """One element of the compiled stack, pre-norm and residual."""

    block: Block
    window: Window | None


def small_init_(weight: Tensor) -> None:
    """Fill with N(0, 2 / (5 fan_in)): for projections into a layer (Nguyen & Salazar, arXiv 1910.05895)."""
    nn.init.normal_(weight, std=(2 / (5 * weight.shape[-1])) ** 0.5)


def wang_init_(weight: Tensor, dims: Dims) -> None:
    """Fill with N(0, (2 / (depth sqrt(width)))^2): for projections back onto the residual stream (GPT-J's)."""
    nn.init.normal_(weight, std=2 / (dims.depth * dims.width**0.5))
