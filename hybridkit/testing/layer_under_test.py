"""A block under trial: its layer with random weights, inputs, calls and comparisons in one arithmetic.

B batch, T tokens, D width, as in `hybridkit.block`.
"""

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, ParamSpec

import torch
from torch import Tensor, nn

from hybridkit.block import Block, Dims, Layer, State, state_like, window_of

_P = ParamSpec("_P")
_Check = Callable[Concatenate[Block, Dims, _P], None]

TOLERANCE = 1e-10  # float64: a thousand times the rounding of some thousand additions of numbers near 1
LONG_CALL = 1100  # tokens of the longest calls: more than 1024, and no multiple of a chunk


@dataclass(frozen=True)
class Arithmetic:
    """The arithmetic of a trial: the type of weights and inputs, whether autocast to bf16 is on, and rounding allowed.

    `bound` is relative to the largest value compared: two ways to compute a result round differently.
    """

    name: str
    dtype: torch.dtype
    bound: float
    autocast: bool = False

    def on(self) -> AbstractContextManager[object]:
        """The context in which the layer runs."""
        return torch.autocast("cpu", torch.bfloat16) if self.autocast else nullcontext()


# bf16 rounds by 2^-9. Projections, keys, scores, values and output round about eight times in one layer, and a sum
# over keys weighs such errors with probabilities: 16 roundings of the largest value.
FLOAT64 = Arithmetic("float64", torch.float64, TOLERANCE)
BF16 = Arithmetic("bf16", torch.bfloat16, 16 * 2.0**-9)
AUTOCAST = Arithmetic("autocast", torch.float32, 16 * 2.0**-9, autocast=True)


class LayerUnderTest:
    """A built layer with all weights random, so that no gate is closed and no path is zero."""

    def __init__(self, block: Block, dims: Dims, precision: Arithmetic = FLOAT64) -> None:
        self.block, self.dims, self.precision = block, dims, precision
        self.layer = built(block, dims).to(precision.dtype)

    @property
    def windows(self) -> Sequence[int | None]:
        """Windows to try."""
        return (1, 2, 16, 200) if window_of(self.block) else (None,)

    @property
    def some_windows(self) -> Sequence[int | None]:
        """Fewer of them, for long calls."""
        return (16, 200) if window_of(self.block) else (None,)

    @property
    def all_windows(self) -> Sequence[int | None]:
        """`windows` and None, for which the policy's largest is used."""
        return tuple(dict.fromkeys((None, *self.windows)))

    def input(self, batch: int, tokens: int, seed: int = 1) -> Tensor:
        """Standard normal (B, T, D)."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(batch, tokens, self.dims.width, dtype=torch.float64, generator=generator)
        return x.to(self.precision.dtype)

    def run(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        window: int | Tensor | None = None,
        document_starts: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """One call of the layer."""
        with self.precision.on():
            y, after = self.layer(x, state, window=window, document_starts=document_starts)
        return y, after

    def chunked(
        self, x: Tensor, cuts: Sequence[int], window: int | None = None, document_starts: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """The same tokens in several calls, each from the state of the one before."""
        outputs: list[Tensor] = []
        state: State | None = None
        for begin, end in itertools.pairwise([0, *cuts, x.shape[1]]):
            marks = None if document_starts is None else document_starts[:, begin:end]
            y, state = self.run(x[:, begin:end], state, window=window, document_starts=marks)
            outputs.append(y)
        assert state is not None
        return torch.cat(outputs, dim=1), state

    def empty(self, batch: int, tokens: int, window: int | None = None, device: str | None = None) -> State:
        """`init_state` in the trial's type."""
        return self.block.init_state(self.dims, batch, tokens, window, device=device, dtype=self.precision.dtype)

    def same(self, a: Tensor, b: Tensor, what: str) -> None:
        """Raises AssertionError unless a equals b (any shape) to rounding."""
        assert a.shape == b.shape, f"{self.say(what)}: shape {tuple(a.shape)}, not {tuple(b.shape)}"
        if a.numel() == 0:
            return
        if self.precision.dtype == torch.float64:
            if a.dtype == b.dtype and torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE):
                return  # many times faster than assert_close
            torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE, msg=self._saying(what))
            return
        error, size = (a.double() - b.double()).abs().max().item(), b.double().abs().max().item()
        assert error <= self.precision.bound * size, f"{self.say(what)}: off by {error:.3g}, largest value {size:.3g}"

    def same_state(self, a: State, b: State, what: str) -> None:
        """Raises AssertionError unless every tensor of two states is equal to rounding."""
        assert type(a) is type(b) and len(a) == len(b), f"{self.say(what)}: {type(a).__name__}, not {type(b).__name__}"
        for place, (left, right) in enumerate(zip(a, b, strict=True)):
            self.same(left, right, f"{what}, tensor {place} of the state")

    def check(self, holds: bool, what: str) -> None:
        """Raises AssertionError with the block's name unless it holds."""
        assert holds, self.say(what)

    def say(self, what: str) -> str:
        """A message that names block, width and arithmetic."""
        return f"{self.block} (width {self.dims.width}, {self.precision.name}): {what}"

    def _saying(self, what: str) -> Callable[[str], str]:
        return lambda details: f"{self.say(what)}\n{details}"


def law(check: _Check[_P]) -> _Check[_P]:
    """A check whose every error is an AssertionError that names the law, the block and the sizes.

    A block that fails to run breaks the law, too.
    """

    @wraps(check)
    def held(block: Block, dims: Dims, *args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            check(block, dims, *args, **kwargs)
        except Exception as error:
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            raise AssertionError(f"{law_name(check)}: {block} at {dims}: {kind}{error}") from error

    return held


def law_name(check: Callable[..., None]) -> str:
    """What a law is called in messages: `law of causality`."""
    return f"law of {check.__name__.lstrip('_').removeprefix('check_')}"


def built(block: Block, dims: Dims) -> Layer:
    """The layer in float64, with weights that are the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = block.build(dims).to(torch.float64)
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5 if parameter.dim() else 1.0)
    return layer


def random_starts(batch: int, tokens: int, share: float = 0.1) -> Tensor:
    """Marks (B, T) of random documents, different in every row."""
    return torch.rand(batch, tokens, generator=torch.Generator().manual_seed(2)) < share


def rows_of(state: State, begin: int, end: int) -> State:
    """Some rows of a state, in memory of their own."""
    return state_like(state, [tensor[begin:end].clone() for tensor in state])
