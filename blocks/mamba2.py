"""Mamba-2, a state space mixer (arXiv 2405.21060): a matrix for each head, which decays by a step that the input sets.

    z, xBC, dt = in_proj(u)            xBC = silu(conv(xBC)), cut into x, B and C
    dt = softplus(dt + dt_bias), between dt_min and dt_max
    S_t = exp(-exp(A_log) dt_t) S_{t-1} + dt_t x_t B_t^T,    y_t = S_t C_t + D x_t      per head, in fp32 at least
    out = out_proj(norm(y * silu(z)))

as in state-spaces/mamba and, with other sizes and factors, in Zamba2, Nemotron-H, Granite 4 and Falcon-H1. The
model adds the pre-norm and the residual. The scan is in ops/ssd.py; ops/ssd_kernels.py says which form runs where.

Letters: B batch, T tokens, D width, H heads, P width of a head, I = H P, G groups that share B and C, N width of a
state's row, K taps of the convolution over I + 2 G N channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from hybridkit.block import (
    AttentionWeights,
    Block,
    Count,
    Dims,
    GivenWindow,
    Layer,
    Linear,
    Start,
    State,
    StepFunction,
    linear,
    packed,
    product_flops,
    set_to,
    write_value,
)
from hybridkit_blocks.ops import ssd_kernels
from hybridkit_blocks.ops.activation import SILU
from hybridkit_blocks.ops.convolution import (
    Convolution,
    convolution_flops,
    convolution_reference,
    convolution_state,
)
from hybridkit_blocks.ops.custom_autograd import product_type
from hybridkit_blocks.ops.gated_norm import GatedNorm
from hybridkit_blocks.ops.precision import wide
from hybridkit_blocks.ops.ssd import decay, ssd_tiles
from hybridkit_blocks.ops.ssd_sizes import SsdSizes
from hybridkit_blocks.ops.ssd_token import SsdRates, ssd_in_torch

A_RANGE = 1.0, 16.0  # initial decay rates, uniform
DT_RANGE, DT_FLOOR = (1e-3, 0.1), 1e-4  # initial step sizes, uniform in the logarithm


class Mamba2State(NamedTuple):
    """What a Mamba-2 layer carries: the convolution's last inputs (B, K - 1, C), and S (B, H, P, N), at least fp32."""

    conv: Tensor
    S: Tensor


class Mamba2(Block):
    """Mamba-2: a decaying matrix memory of constant size.

    `heads` defaults to the model's, `head` to expand * width / heads. `groups` of heads share B and C; `state` is their
    width. `gate_norm` says over what the norm behind the gate runs: each group, all of the inner width, or `none`.
    Each part of in_proj's output (z, x, b, c, dt) may have a constant factor.
    """

    differentiable_state: ClassVar[bool] = True
    heads: int | None = Field(None, ge=1)
    head: int | None = Field(None, ge=1)
    state: int = Field(128, ge=1)
    groups: int = Field(1, ge=1)
    expand: float = Field(2, gt=0)
    conv: int = Field(4, ge=1)
    gate_norm: Literal["group", "all", "none"] = "group"
    bias: bool = False
    conv_bias: bool = True
    dt_min: float = Field(0.0, ge=0)
    dt_max: float | None = Field(None, gt=0)
    z_scale: float = 1.0
    x_scale: float = 1.0
    b_scale: float = 1.0
    c_scale: float = 1.0
    dt_scale: float = 1.0

    def resolved(self, dims: Dims) -> Self:
        sizes = self.sizes(dims)
        usual = type(self).model_fields["expand"].default  # means nothing beside `head`
        return self.model_copy(update={"heads": sizes.heads, "head": sizes.head, "expand": usual})

    def build(self, dims: Dims) -> Mamba2Layer:
        return Mamba2Layer(self, self.sizes(dims), dims)

    def flops(self, dims: Dims, tokens: int, window: GivenWindow = None, count: Count = "exact") -> int:
        """Linear layers, convolution, and 4 P N a token and head for writing and reading S.

        `hardware` is the own chunkwise form with chunks of L tokens: 2 L (G N + I) more a token, for whole L x L tiles,
        the last chunk's padding included.
        """
        sizes = self.sizes(dims)
        multiply, parts = product_flops(count), (sizes.inner, sizes.channels, sizes.heads)  # of in_proj
        outer = sum(multiply(tokens, dims.width, part) for part in parts) + multiply(tokens, sizes.inner, dims.width)
        outer += convolution_flops(sizes.channels, sizes.taps, tokens)
        if count != "hardware":
            return outer + tokens * 4 * sizes.inner * sizes.state
        chunks, length = ssd_tiles(tokens)
        cell = 4 * sizes.inner * sizes.state + 2 * length * (sizes.groups * sizes.state + sizes.inner)
        return outer + chunks * length * cell

    def cost_reference(
        self, dims: Dims, tokens: int, window: GivenWindow = None, count: Count = "exact"
    ) -> Callable[[], object] | None:
        """The recurrent form: x B^T written into S and C read from it, token by token. Tiles are the kernels' own."""
        if count != "exact":
            return None
        sizes = self.sizes(dims)
        convolution = convolution_reference(sizes.channels, sizes.taps, tokens)
        shapes = (sizes.head, 1), (1, sizes.state), (sizes.head, sizes.state), (sizes.state, 1)
        x, b, S, c = (torch.zeros(sizes.heads, *shape) for shape in shapes)
        return lambda: (convolution(), [(x @ b, S @ c) for _ in range(tokens)])

    def init_state(
        self,
        dims: Dims,
        batch: int,
        tokens: int,
        window: GivenWindow = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Mamba2State:
        """An empty memory: H P N numbers a sequence, at least fp32, and K - 1 inputs of each channel."""
        sizes = self.sizes(dims)
        S = (batch, sizes.heads, sizes.head, sizes.state)
        return Mamba2State(
            convolution_state(batch, sizes.channels, sizes.taps, device, dtype),
            torch.zeros(S, device=device, dtype=wide(dtype or torch.get_default_dtype())),
        )

    def from_attention(self, attention: AttentionWeights, dims: Dims) -> Sequence[Start]:
        """Values become x, keys B, queries C (arXiv 2408.15237); the convolution passes half of them, D is 0, and dt
        that of its bias (docs/decisions/16-starts-from-attention.md). Every head has a B and a C, as wide as itself."""
        heads, head, like = attention.heads, attention.head, attention.weights["q.weight"]
        fit = {"heads": heads, "head": head, "state": head, "groups": heads, "x_scale": 1, "b_scale": 1, "c_scale": 1}
        self.check_sizes(attention, dims, **fit)
        rows, taps = heads * head, like.new_zeros(3 * heads * head, self.conv)
        taps[:, -1] = 0.5
        sources = ("v.weight", "k.weight", "q.weight")  # x, B and C follow z in in_proj
        starts = [attention.start(name, "in_proj.weight", begin=rows * at) for at, name in enumerate(sources, 1)]
        starts += [set_to("in_proj.weight", like.new_zeros(heads, dims.width), 4 * rows), set_to("conv.weight", taps)]
        starts += [set_to("conv.bias", like.new_zeros(3 * rows))] * self.conv_bias
        return [*starts, set_to("D", like.new_zeros(heads)), attention.start("out.weight", "out_proj.weight")]

    @classmethod
    def kernel(cls, device: str) -> tuple[str, str]:
        """Which implementation of the scan runs on a device ("cpu", "cuda"), and why, in a line."""
        return ssd_kernels.choose_kernel(device)

    def sizes(self, dims: Dims) -> SsdSizes:
        """H, P, G, N and K. Raises ValueError where they do not fit."""
        heads = self.heads or dims.heads
        inner = heads * self.head if self.head else int(self.expand * dims.width + 1e-6)  # of .29 * 100, too
        if inner % heads or not inner:
            said = f"mamba2: {heads} heads do not divide expand * width ({write_value(self.expand)} * {dims.width})"
            raise ValueError(f"{said}; choose others, or give the width of a head: mamba2(head=64)")
        if heads % self.groups:
            raise ValueError(f"mamba2: {self.groups} groups do not divide {heads} heads: choose a divisor")
        if self.dt_max is not None and self.dt_max < self.dt_min:
            raise ValueError(f"mamba2: dt_max={write_value(self.dt_max)} is below dt_min={write_value(self.dt_min)}")
        return SsdSizes(heads, inner // heads, self.groups, self.state, self.conv)


class Mamba2Layer(Layer):
    """The built Mamba-2: `forward` for any stretch of tokens, `step` for one, in place."""

    supports_sequence_parallel = True

    def __init__(self, block: Mamba2, sizes: SsdSizes, dims: Dims) -> None:
        super().__init__()
        self.block, self.dims, self.sizes = block, dims, sizes
        self._cuts = [sizes.inner, sizes.channels, sizes.heads]
        self.in_proj = Linear(dims.width, sum(sizes.sections), bias=block.bias)
        self.conv = Convolution(sizes.channels, sizes.taps, block.conv_bias, SILU)
        self.dt_bias = nn.Parameter(torch.empty(sizes.heads))
        self.A_log = nn.Parameter(torch.empty(sizes.heads))
        self.D = nn.Parameter(torch.ones(sizes.heads))
        self.norm = GatedNorm(sizes.inner, {"group": sizes.groups, "all": 1, "none": None}[block.gate_norm])
        self.out_proj = Linear(sizes.inner, dims.width, bias=block.bias)
        self._start(dims)

    @torch.no_grad()
    def _start(self, dims: Dims) -> None:
        """Initial weights of state-spaces/mamba; linear layers and the convolution begin as torch has them."""
        if self.A_log.is_meta:  # holds no numbers (block/init.py)
            return
        self.A_log.uniform_(*A_RANGE).log_()
        dt = self.dt_bias.uniform_(*map(math.log, DT_RANGE)).exp_().clamp_(min=DT_FLOOR)
        dt.add_(dt.clone().neg_().expm1_().neg_().log_())  # the inverse of softplus
        self.out_proj.weight.div_(dims.depth**0.5)

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        window: GivenWindow | Tensor = None,
        document_starts: Tensor | None = None,
    ) -> tuple[Tensor, Mamba2State]:
        """(B, T, D) to (B, T, D) and the memory after it. Raises ValueError for a window: Mamba-2 has none."""
        if window is not None:
            raise ValueError("mamba2 has no window; leave it out")
        held, parallel = Mamba2State(*state) if state else None, self.sequence_parallel
        z, mixed, dt = self._project(x)
        mixed = self.sizes.share(mixed, 2, parallel.ranks, parallel.gather)
        mixed, inputs = self.conv(mixed, held.conv if held else None, document_starts, self._own)
        rates = (parallel.own_heads(t) for t in (self.A_log, self.dt_bias))
        dt, log_a = decay(*rates, self.block.dt_min, self.block.dt_max)(parallel.gather(dt))
        skip, S = parallel.own_heads(self.D), held.S if held else None
        if S is None:
            S = x.new_zeros(len(x), len(skip), self.sizes.head, self.sizes.state, dtype=wide(x.dtype))
        y, S = ssd_kernels.scan(mixed, dt, log_a, skip, S, document_starts)
        y = parallel.scatter(y).flatten(-2)
        return self.out_proj(self.norm(y, z)).to(x.dtype), Mamba2State(inputs, S)

    def _own(self, t: Tensor) -> Tensor:
        """What belongs to own heads of a weight of the convolution (I + 2 G N, .)."""
        return self.sizes.share(t, 0, self.sequence_parallel.ranks, self.sequence_parallel.own_heads)

    @torch.no_grad()
    def step(self, x: Tensor, state: State) -> tuple[Tensor, Mamba2State]:
        """One token (B, 1, D); `state` is updated in place and returned. For inference: it has no gradient."""
        memory = Mamba2State(*state)
        h = self._token()(memory, *self._project(x[:, 0])) * self.norm.after
        return self.out_proj(h.to(x.dtype)).to(x.dtype)[:, None], memory

    def decoder(self, norm: nn.RMSNorm | None, rows: int) -> StepFunction:
        weight, bias = self._in()
        project, token = packed.normed_product(norm, [weight], rows, bias), self._token()
        out = packed.output(norm, self.out_proj.weight * self.norm.after, rows, self.out_proj.bias)

        def run(x: Tensor, state: State) -> tuple[Tensor, State]:
            x, memory = x[:, 0], Mamba2State(*state)
            h = token(memory, *project(x).split_with_sizes(self._cuts, -1))
            return out(x, h.to(x.dtype))[:, None], memory

        return run

    def _token(self) -> Callable[[Mamba2State, Tensor, Tensor, Tensor], Tensor]:
        """One token of in_proj's outputs (B, .) to (B, I), but for `norm.after`; the memory is moved on in place."""
        mix, bounds = self.conv.stepper(), (self.block.dt_min, self.block.dt_max)
        rates = SsdRates(self.A_log, self.dt_bias, self.D, *bounds)
        if packed.on_gpu(self.D):
            from hybridkit_blocks.ops.ssd_step import ssd_token  # its operator takes time to register

            token = ssd_token(rates, self.norm, self.sizes, self.in_proj.weight.dtype)
        else:
            token = ssd_in_torch(rates, self.norm)

        def run(memory: Mamba2State, z: Tensor, mixed: Tensor, dt: Tensor) -> Tensor:
            return token(mix(mixed, memory.conv), dt, z, memory.S)

        return run

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        """z (., I), the convolution's input (., I + 2 G N) and dt (., H): a product each, so that none is a copy."""
        weight, bias = self._in()
        if kind := product_type(x, weight):  # cast here: see hybridkit.training.bf16_weights
            weight = weight.to(kind)
        parts = weight.split(self._cuts)
        biases = [None] * 3 if bias is None else bias.split(self._cuts)
        return tuple(linear(x, part, more) for part, more in zip(parts, biases, strict=True))

    def _in(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of in_proj, with the factors."""
        b, sections = self.block, self.sizes.sections
        scales = [b.z_scale, b.x_scale, b.b_scale, b.c_scale, b.dt_scale]
        weight, bias = self.in_proj.weight, self.in_proj.bias
        weight = _scaled(weight, scales, sections)
        return weight, None if bias is None else _scaled(bias, scales, sections)


def _scaled(weight: Tensor, scales: Sequence[float], sections: Sequence[int]) -> Tensor:
    """The sections of a weight's first dimension, each times its scale; the weight itself where all are 1."""
    if all(scale == 1 for scale in scales):
        return weight
    return torch.cat([part * scale for part, scale in zip(weight.split(sections), scales, strict=True)])
