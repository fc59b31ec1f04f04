"""The arguments that Gated DeltaNet and Kimi Delta Attention share, and what follows from them: sizes, costs, states.

Letters: B batch, T tokens, D width, H value heads, J key heads, K and V width of a key and a value, C = 2 J K + H V
channels of the convolution.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor

from hybridkit.block import (
    AttentionWeights,
    Block,
    Count,
    Dims,
    GivenWindow,
    Start,
    product_flops,
    set_to,
)
from hybridkit_blocks.ops import delta_kernels
from hybridkit_blocks.ops.convolution import convolution_flops, convolution_reference, convolution_state
from hybridkit_blocks.ops.precision import wide


class DeltaState(NamedTuple):
    """What a delta rule carries: S (B, H, K, V), at least fp32, and the convolution's last inputs (B, conv - 1, C)."""

    S: Tensor
    inputs: Tensor


class DeltaSizes(NamedTuple):
    """Heads and their widths."""

    heads: int  # H
    key_heads: int  # J
    key: int  # K
    value: int  # V

    @property
    def channels(self) -> tuple[int, int, int]:
        """Widths of q, k and v over all heads."""
        return self.key_heads * self.key, self.key_heads * self.key, self.heads * self.value


class DeltaBlock(Block):
    """The arguments of both kinds, and what follows from them alone."""

    differentiable_state: ClassVar[bool] = True
    rates: ClassVar[int]  # linear layers that give a number a head
    heads: int | None = Field(None, ge=1)
    key_heads: int | None = Field(None, ge=1)
    head: int | None = Field(None, ge=1)
    value: int | None = Field(None, ge=1)
    conv: int = Field(4, ge=1)
    conv_bias: bool = False
    allow_neg_eigval: bool = False
    norm_eps: float = Field(1e-5, gt=0)

    @abstractmethod
    def default_head(self, width: int, heads: int) -> int:
        """K where none is given."""

    @abstractmethod
    def default_value(self, key: int) -> int:
        """V where none is given."""

    @abstractmethod
    def projections(self, dims: Dims) -> list[tuple[int, int]]:
        """Inputs and outputs of the linear layers, but for those of rates."""

    @abstractmethod
    def chunk_products(self, sizes: DeltaSizes, tokens: int) -> int:
        """Multiply-adds of the chunkwise form."""

    def resolved(self, dims: Dims) -> Self:
        heads, key_heads, key, value = self.sizes(dims)
        return self.model_copy(update={"heads": heads, "key_heads": key_heads, "head": key, "value": value})

    def sizes(self, dims: Dims) -> DeltaSizes:
        """Heads at these dims. Raises ValueError where they do not fit together."""
        heads = self.heads or dims.heads
        key_heads = self.key_heads or heads
        if heads % key_heads:
            raise ValueError(f"{self.name()}: key_heads={key_heads} does not divide {heads} heads: choose a divisor")
        key = self.head or self.default_head(dims.width, heads)
        return DeltaSizes(heads, key_heads, key, self.value or self.default_value(key))

    def from_attention(self, attention: AttentionWeights, dims: Dims) -> Sequence[Start]:
        """Queries, keys, values and output; all else neutral, as ServiceNow's Fast-LLM converts to Gated DeltaNet.

        The convolution passes half of its input, for which SiLU is nearly linear; beta is 1/2 everywhere, the norm has
        weights 1, and what `neutral` says. Biases have no place, nor have positions, which a delta rule has no need of.
        """
        heads, head = attention.heads, attention.head
        self.check_sizes(attention, dims, heads=heads, key_heads=heads, head=head, value=head)
        starts = [attention.start(f"{name}.weight") for name in ("q", "k", "v", "out")]
        like, rows = attention.weights["q.weight"], 3 * heads * head
        taps = like.new_zeros(rows, self.conv)
        taps[:, -1] = 0.5
        starts += [set_to("conv.weight", taps), set_to("b.weight", like.new_zeros(heads, dims.width))]
        if self.conv_bias:
            starts.append(set_to("conv.bias", like.new_zeros(rows)))
        return [*starts, set_to("norm", like.new_ones(head)), *self.neutral(self.sizes(dims), dims, like)]

    @abstractmethod
    def neutral(self, sizes: DeltaSizes, dims: Dims, like: Tensor) -> Sequence[Start]:
        """Decay and gate for `from_attention`, of the type of `like`."""

    def flops(self, dims: Dims, tokens: int, window: GivenWindow = None, count: Count = "exact") -> int:
        """Linear layers, the convolution's taps, and the cell.

        The cell has 6 K V a token and head: S read at k, written, and read at q, in the recurrent form, the least that
        any form needs. `hardware` counts the products of the own chunkwise form instead, the last chunk's padding and
        the upper halves of triangles included.
        """
        sizes = self.sizes(dims)
        multiply = product_flops(count)
        linear = sum(multiply(tokens, *each) for each in self.projections(dims))
        linear += 2 * tokens * dims.width * self.rates * sizes.heads
        linear += convolution_flops(sum(sizes.channels), self.conv, tokens)
        if count == "hardware":
            return linear + 2 * self.chunk_products(sizes, tokens)
        return linear + 6 * tokens * sizes.heads * sizes.key * sizes.value

    def cost_reference(
        self, dims: Dims, tokens: int, window: GivenWindow = None, count: Count = "exact"
    ) -> Callable[[], object] | None:
        """The recurrent form, token by token, and the convolution. The chunkwise form's products are counted apart."""
        if count == "hardware":
            return None
        heads, _, key, value = sizes = self.sizes(dims)
        taps = convolution_reference(sum(sizes.channels), self.conv, tokens)
        k, u, S = (torch.zeros(heads, *shape) for shape in ((1, key), (1, value), (key, value)))
        return lambda: [taps(), *((k @ S, k.mT @ u, k @ S) for _ in range(tokens))]

    def init_state(
        self,
        dims: Dims,
        batch: int,
        tokens: int,
        window: GivenWindow = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> DeltaState:
        """An empty memory: H K V numbers, at least fp32, and (conv - 1) C of the model's type, however many tokens."""
        heads, _, key, value = sizes = self.sizes(dims)
        kind = wide(dtype or torch.get_default_dtype())
        S = torch.zeros(batch, heads, key, value, device=device, dtype=kind)
        return DeltaState(S, convolution_state(batch, sum(sizes.channels), self.conv, device, dtype))

    @classmethod
    def kernel(cls, device: str) -> tuple[str, str]:
        """Which implementation of the cell runs on a device ("cpu", "cuda"), and why, in a line."""
        return delta_kernels.choose_kernel(device)
