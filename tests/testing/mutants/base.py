"""Right blocks, small and plain, and how one fault is put into them.

B batch, T tokens, S cached keys, D width.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from hybridkit.block import Block, Count, Dims, Layer, State, Window
from hybridkit_blocks.windows.fixed import Fixed


class Mutant(NamedTuple):
    """A block with one fault."""

    fault: str
    block: Block


class Sum(NamedTuple):
    total: Tensor  # (B, D)


class Running(Block):
    """The sum over time of a projection, from each document's first token on."""

    differentiable_state: ClassVar[bool] = True

    def build(self, dims: Dims) -> Layer:
        return RunningLayer(dims.width)

    def flops(self, dims: Dims, tokens: int, window: int | None = None, count: Count = "exact") -> int:
        return 2 * dims.width * dims.width * tokens + 2 * dims.width * tokens

    def init_state(self, dims, batch, tokens, window=None, *, device=None, dtype=None) -> State:  # type: ignore[no-untyped-def]
        return Sum(torch.zeros(batch, dims.width, device=device, dtype=dtype))


class RunningLayer(Layer):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, width, bias=False)

    def forward(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
        value = self.proj(x).to(x.dtype)
        total = value.cumsum(1)
        carried = torch.zeros_like(x[:, 0]) if state is None else state.total
        y = total + carried[:, None]
        if document_starts is not None:
            place = torch.where(document_starts, torch.arange(x.shape[1]), -1).cummax(1).values[..., None]
            before = (total - value).gather(1, place.clamp(min=0).expand_as(total))
            y = torch.where(place < 0, y, total - before)
        return y, Sum(y[:, -1].clone())


class Keys(NamedTuple):
    k: Tensor  # (B, S, D)
    v: Tensor  # (B, S, D)
    hidden: Tensor  # (B, S) bool: of an earlier document, or nothing
    window: Tensor  # (B,)


class Attend(Block):
    """One head of attention over a window, without positions."""

    has_window: ClassVar[bool] = True
    keeps_tokens: ClassVar[bool] = True
    differentiable_state: ClassVar[bool] = True
    window: Window

    def build(self, dims: Dims) -> Layer:
        return AttendLayer(dims.width, self.window.largest)

    def flops(self, dims: Dims, tokens: int, window: int | None = None, count: Count = "exact") -> int:
        window = min(window or self.window.largest, tokens)
        pairs = window * (window + 1) // 2 + (tokens - window) * window
        return 8 * dims.width**2 * tokens + 4 * dims.width * (tokens * tokens if count == "hardware" else pairs)

    def init_state(self, dims, batch, tokens, window=None, *, device=None, dtype=None) -> State:  # type: ignore[no-untyped-def]
        window = window or self.window.largest
        keys = torch.zeros(2, batch, min(tokens, window - 1), dims.width, device=device, dtype=dtype)
        hidden = torch.ones(keys.shape[1:3], dtype=torch.bool, device=device)
        return Keys(*keys, hidden, torch.full((batch,), window, device=device))


class AttendLayer(Layer):
    def __init__(self, width: int, largest: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.largest = largest

    def forward(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
        window = self.largest if window is None else window
        q, k, v = self.q(x), self.k(x), self.v(x)
        document = torch.zeros(x.shape[:2], dtype=torch.int64) if document_starts is None else document_starts.cumsum(1)
        hidden = torch.zeros(x.shape[:2], dtype=torch.bool)
        if state is not None:
            if window > int(state.window.max()):
                raise ValueError(f"window {window} is larger than that of the state, {int(state.window.max())}")
            k, v = torch.cat([state.k.to(k.dtype), k], 1), torch.cat([state.v.to(v.dtype), v], 1)
            hidden = torch.cat([state.hidden, hidden], 1)
            document = torch.cat([document.new_zeros(state.hidden.shape), document], 1)
        y = self.mix(q, k, v, document, hidden, window)
        keep = min(k.shape[1], window - 1)
        kept = slice(k.shape[1] - keep, None)
        after = hidden | (document != document[:, -1:])
        held = Keys(k[:, kept].clone(), v[:, kept].clone(), after[:, kept].clone(), torch.full((len(x),), window))
        return self.out(y).to(x.dtype), held

    def step(self, x, state):  # type: ignore[no-untyped-def]
        return self(x, state, window=int(state.window[0]))

    def mix(self, q, k, v, document, hidden, window):  # type: ignore[no-untyped-def]
        tokens, keys = q.shape[1], k.shape[1]
        age = torch.arange(keys - tokens, keys)[:, None] - torch.arange(keys)
        seen = (age >= 0) & (age < window) & ~hidden[:, None]
        seen = seen & (document[:, keys - tokens :, None] == document[:, None])
        return (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~seen, -torch.inf).softmax(-1) @ v


RUNNING, ATTEND = Running(), Attend(window=Fixed(window=24))


def mutant(fault: str, block: Block = RUNNING, **methods: Any) -> Mutant:
    """`block` with other methods.

    `forward`, `step`, `decoder` and `reserve` are the layer's; `built` changes a layer that was built; all others are
    the block's. `self.right` is the layer's own forward.
    """
    own = {name: methods.pop(name) for name in ("forward", "step", "decoder", "reserve", "mix") if name in methods}
    changed: Callable[[Layer], None] = methods.pop("built", lambda layer: None)

    def build(self: Block, dims: Dims) -> Layer:
        layer = block.build(dims)
        kind = type(layer)
        layer.__class__ = type(
            f"Broken{kind.__name__}", (kind,), {**own, "right": kind.forward, "__module__": __name__}
        )
        changed(layer)
        return layer

    kind = type(f"Broken{type(block).__name__}", (type(block),), {"build": build, "__module__": __name__, **methods})
    return Mutant(fault, kind.model_validate(dict(block)) if dict(block) else kind())
