"""What Gated DeltaNet and Kimi Delta Attention share: projections, short convolution, delta rule, gated norm, output.

    q, k, v = silu(conv(W x))      S, o: the rule of ops/delta_rule.py      y = out(act(gate(x)) * norm(o))

q, k and v pass a causal depthwise convolution; norm is RMSNorm of each head with one weight a channel of it. A subclass
says which linear layers read x beside q, k and v, and what rates and gate they give.

Letters: B batch, T tokens, D width, H value heads, J key heads, K and V width of a key and a value, G = 1 or K decays a
head, C = 2 J K + H V channels of the convolution.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hybridkit.block import Block, Count, Dims, GivenWindow, Layer, State, StepFunction, small_init_, wang_init_
from hybridkit_blocks.ops import delta_kernels
from hybridkit_blocks.ops.convolution import (
    SILU,
    Convolution,
    convolution_flops,
    convolution_reference,
    convolution_state,
    convolve,
)
from hybridkit_blocks.ops.cpu.packed import Product, Unit, product, residual, side_by_side
from hybridkit_blocks.ops.custom_autograd import custom_autograd
from hybridkit_blocks.ops.delta_rule import normalised, recurrent_
from hybridkit_blocks.ops.precision import no_autocast, wide

GATES: Mapping[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "sigmoid": torch.sigmoid}


class DeltaState(NamedTuple):
    """What a delta rule carries: S (B, H, K, V), at least fp32, and the convolution's last inputs (B, conv - 1, C)."""

    S: Tensor
    inputs: Tensor


class Sizes(NamedTuple):
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
    def weights(self, dims: Dims) -> int:
        """Weights of the linear layers."""

    @abstractmethod
    def chunk_products(self, sizes: Sizes, tokens: int) -> int:
        """Multiply-adds of the chunkwise form."""

    def resolved(self, dims: Dims) -> Self:
        heads, key_heads, key, value = self.sizes(dims)
        return self.model_copy(update={"heads": heads, "key_heads": key_heads, "head": key, "value": value})

    def sizes(self, dims: Dims) -> Sizes:
        """Heads at these dims. Raises ValueError where they do not fit together."""
        heads = self.heads or dims.heads
        key_heads = self.key_heads or heads
        if heads % key_heads:
            raise ValueError(f"{self.name()}: key_heads={key_heads} does not divide {heads} heads: choose a divisor")
        key = self.head or self.default_head(dims.width, heads)
        return Sizes(heads, key_heads, key, self.value or self.default_value(key))

    def flops(self, dims: Dims, tokens: int, window: GivenWindow = None, count: Count = "exact") -> int:
        """Linear layers, the convolution's taps, and the cell.

        The cell has 6 K V a token and head: S read at k, written, and read at q, in the recurrent form, the least that
        any form needs. `hardware` counts the products of the own chunkwise form instead, the last chunk's padding and
        the upper halves of triangles included.
        """
        sizes = self.sizes(dims)
        linear = 2 * tokens * self.weights(dims) + convolution_flops(sum(sizes.channels), self.conv, tokens)
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


class WideLinear(nn.Linear):
    """A linear layer without bias, in fp32 or float64 even where the model is bf16: for rates, which add up."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, T, outputs), at least fp32."""
        kind = wide(x.dtype)
        with no_autocast(x):
            return F.linear(x.to(kind), self.weight.to(kind))


class DeltaLayer(Layer):
    """The built mixer: `forward` for any stretch of tokens, `step` for one, in place."""

    supports_sequence_parallel = True

    def __init__(self, block: DeltaBlock, dims: Dims) -> None:
        super().__init__()
        self.name, self.sizes, self.eps = block.name(), block.sizes(dims), block.norm_eps
        self.top = 2.0 if block.allow_neg_eigval else 1.0  # beta lies between 0 and this
        q, k, v = self.sizes.channels
        self.q, self.k, self.v = (nn.Linear(dims.width, width, bias=False) for width in (q, k, v))
        self.b = WideLinear(dims.width, self.sizes.heads)
        self.conv = Convolution(q + k + v, block.conv, block.conv_bias, SILU)
        self.norm = nn.Parameter(torch.ones(self.sizes.value))
        self.out = nn.Linear(v, dims.width, bias=False)
        for linear in (self.q, self.k, self.v, self.b):
            small_init_(linear.weight)
        wang_init_(self.out.weight, dims)

    @property
    @abstractmethod
    def inputs(self) -> Sequence[nn.Linear]:
        """The linear layers that read x beside q, k, v and b."""

    @abstractmethod
    def rates(self, given: Sequence[Tensor]) -> Tensor:
        """The log decay g (..., H, G) from what `inputs` give (..., outputs), at least fp32."""

    @abstractmethod
    def gated(self, o: Tensor, given: Sequence[Tensor]) -> Tensor:
        """The normed o (..., H, V) times its gate, from what `inputs` give."""

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        window: GivenWindow | Tensor = None,
        document_starts: Tensor | None = None,
    ) -> tuple[Tensor, DeltaState]:
        """(B, T, D) to (B, T, D) and the memory after it. Raises ValueError for a window: there is none."""
        if window is not None:
            raise ValueError(f"{self.name} has no window; leave it out")
        held, gather = DeltaState(*state) if state else None, self.sequence_parallel.gather
        q, k, v, b, *given = self._project(x)
        (q, k, v), inputs = self._convolved((q, k, v), held, document_starts)
        beta, g = gather(torch.sigmoid(b) * self.top), gather(self.rates(given))
        o, S = delta_kernels.cell(q, k, v, beta, g, held.S if held else None, document_starts)
        y = self.gated(self._normed(self.sequence_parallel.scatter(o)), given).flatten(-2)
        return self.out(y.to(x.dtype)).to(x.dtype), DeltaState(S, inputs)

    @torch.no_grad()
    def step(self, x: Tensor, state: State) -> tuple[Tensor, DeltaState]:
        """One token (B, 1, D); `state` is updated in place and returned. For inference: it has no gradient."""
        held, x = DeltaState(*state), x[:, 0]
        q, k, v, b, *given = (linear(x) for linear in (self.q, self.k, self.v, self.b, *self.inputs))
        y = self._token(torch.cat([q, k, v], -1), b, given, held)
        return self.out(y.to(x.dtype))[:, None].to(x.dtype), held

    def decoder(self, norm: nn.RMSNorm, rows: int) -> StepFunction:
        unit, out = Unit(norm), residual(self.out.weight, rows)
        linears = self.q, self.k, self.v, self.b, *self.inputs
        project, cuts = self._packed(norm, linears, rows), [len(linear.weight) for linear in linears[3:]]
        cuts.insert(0, sum(self.sizes.channels))

        def run(x: Tensor, state: State) -> tuple[Tensor, DeltaState]:
            held, x = DeltaState(*state), x[:, 0]
            qkv, b, *given = project(unit(x)).split_with_sizes(cuts, -1)
            return out(x, self._token(qkv, b, given, held).to(x.dtype))[:, None], held

        return run

    def _packed(self, norm: nn.RMSNorm, linears: Sequence[nn.Linear], rows: int) -> Product:
        """All products with x at once, in their order; those of rates are at least fp32, and so is what is returned."""
        kind = wide(self.q.weight.dtype)
        if kind == self.q.weight.dtype:
            return product(side_by_side(norm, [linear.weight for linear in linears]), rows)
        kinds = [kind if isinstance(linear, WideLinear) else self.q.weight.dtype for linear in linears]
        parts = [
            product(side_by_side(norm, [linear.weight], own), rows) for linear, own in zip(linears, kinds, strict=True)
        ]
        return lambda x: torch.cat([run(x.to(own)).to(kind) for run, own in zip(parts, kinds, strict=True)], -1)

    def _project(self, x: Tensor) -> Sequence[Tensor]:
        """What q, k, v, b and `inputs` give (B, T, outputs)."""
        linears = self.q, self.k, self.v, self.b, *self.inputs
        if not custom_autograd(x, self.q.weight):
            return [linear(x) for linear in linears]
        weights = [linear.weight for linear in linears]  # one product for all, and one for each gradient
        return F.linear(x, torch.cat(weights)).split([len(weight) for weight in weights], -1)

    def _convolved(
        self, mixed: Sequence[Tensor], held: DeltaState | None, document_starts: Tensor | None
    ) -> tuple[Sequence[Tensor], Tensor]:
        """q, k (B, T, J, K) and v (B, T, H, V) after the convolution, and its inputs that later tokens see."""
        conv, channels, outputs, inputs = self.conv, self.sizes.channels, [], []
        before = held.inputs.split(channels, -1) if held else (None,) * 3
        biases = (None,) * 3 if conv.bias is None else conv.bias.split(channels)
        heads = self.sizes.key_heads, self.sizes.key_heads, self.sizes.heads
        for t, weight, bias, past, number in zip(
            mixed, conv.weight.split(channels), biases, before, heads, strict=True
        ):
            own = self._own(weight, number), None if bias is None else self._own(bias, number)
            t = self.sequence_parallel.gather(t.unflatten(-1, (number, -1)))
            y, after = convolve(t.flatten(-2), *own, conv.activation, past, document_starts)
            outputs.append(y.view(t.shape))
            inputs.append(after)
        return outputs, torch.cat(inputs, -1)

    def _own(self, t: Tensor, heads: int) -> Tensor:
        """What belongs to own heads of a tensor of all channels (C, .)."""
        return self.sequence_parallel.own_heads(t.unflatten(0, (heads, -1))).flatten(0, 1)

    def _token(self, qkv: Tensor, b: Tensor, given: Sequence[Tensor], held: DeltaState) -> Tensor:
        """One token's y (B, H V), from projected q, k, v side by side (B, C); `held` is changed in place."""
        (heads, key_heads, key, value), S = self.sizes, held.S
        mixed = self.conv.step(qkv, held.inputs).to(S.dtype)
        keys = normalised(mixed[:, : 2 * key_heads * key].reshape(-1, 2, key_heads, key))
        if heads != key_heads:
            keys = keys.repeat_interleave(heads // key_heads, 2)
        q, k = keys.unbind(1)
        v, beta = mixed[:, 2 * key_heads * key :].reshape(-1, 1, value), torch.sigmoid(b) * self.top
        decay = torch.exp(self.rates(given)).flatten(0, 1)[..., None]
        rows = q.reshape(-1, 1, key) * key**-0.5, k.reshape(-1, 1, key), v, beta.view(-1, 1, 1)
        o = recurrent_(*rows, decay, S.flatten(0, 1))
        return self.gated(self._normed(o.view(-1, heads, value)), given).flatten(-2)

    def _normed(self, o: Tensor) -> Tensor:
        """RMSNorm of each head (..., H, V), at least fp32."""
        kind = wide(o.dtype)
        return F.rms_norm(o.to(kind), (self.sizes.value,), self.norm.to(kind), self.eps)
