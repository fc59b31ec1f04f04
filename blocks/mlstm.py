"""mLSTM, a recurrent mixer with a matrix memory: the block of xLSTM-7B (arXiv 2503.13427), carried in (C, n, m).

    y = out(sigmoid(ogate(x)) * norm(cell(q, k, v, i, f)))

q and k project to half the width, v to all of it; the gates i and f, one number a head, are capped softly at 15; the
norm centres and scales each head. The model adds the pre-norm and the residual. The cell's equations stand in
ops/mlstm_chunkwise.py; ops/mlstm_kernels.py says which implementation of it runs where. Projections, cell and output
are separate steps over (B, H, T, .), so that sequence parallelism over heads can run between them.

Letters: B batch, T tokens, D width, H heads, K = D / 2H and V = D / H width of a head's key and value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
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
    packed,
    product_flops,
    small_init_,
    wang_init_,
)
from hybridkit_blocks.ops import mlstm_kernels
from hybridkit_blocks.ops.activation import SIGMOID
from hybridkit_blocks.ops.custom_autograd import product_type
from hybridkit_blocks.ops.joined import WideLinear, joined, wide_linear
from hybridkit_blocks.ops.mlstm_chunkwise import MlstmState, mlstm_tiles, recurrent_mlstm_
from hybridkit_blocks.ops.mlstm_gates import GATE_CAP, NORM_EPS, capped_gate
from hybridkit_blocks.ops.mlstm_span import columns
from hybridkit_blocks.ops.normed_gate import LAYER_NORM, normed_gate
from hybridkit_blocks.ops.precision import wide


class Mlstm(Block):
    """mLSTM (xLSTM-7B): a recurrent matrix memory of constant size; `heads` defaults to the model's.

    `igate_bias` is the initial bias of the input gates. At -10, that of xLSTM-7B, almost nothing is written at first,
    which suits long training; small models that train for minutes learn faster with a larger one.
    """

    differentiable_state: ClassVar[bool] = True
    heads: int | None = Field(None, ge=1)
    igate_bias: float = Field(-10.0, ge=-15, le=15)

    def build(self, dims: Dims) -> MlstmLayer:
        self._head(dims)
        return MlstmLayer(dims, self.heads or dims.heads, self.igate_bias)

    def flops(self, dims: Dims, tokens: int, window: GivenWindow = None, count: Count = "exact") -> int:
        """Linear layers and the cell: 4 K V a token and head in the recurrent form, the least that any form needs.

        `paper` leaves the gate projections out. `hardware` is the own chunkwise form: with chunks of L tokens and E
        columns of a value (with that of n and the padding to a multiple of 16), 4 K E + 2 L (K + E) a token and head,
        for whole L x L tiles, the last chunk's padding included.
        """
        heads, key, value = self._head(dims)
        gates = 0 if count == "paper" else 2 * heads * dims.width
        linear = 2 * tokens * (4 * dims.width**2 + gates)
        if count != "hardware":
            return linear + tokens * 4 * heads * key * value
        (chunks, length), extended = mlstm_tiles(tokens), columns(value)
        widths = (dims.width // 2, dims.width // 2, dims.width, dims.width, dims.width)
        multiply = product_flops(count)
        linear = sum(multiply(tokens, dims.width, width) for width in widths) + 2 * tokens * gates
        return linear + chunks * length * heads * (4 * key * extended + 2 * length * (key + extended))

    def cost_reference(
        self, dims: Dims, tokens: int, window: GivenWindow = None, count: Count = "exact"
    ) -> Callable[[], object] | None:
        """The recurrent form: k v^T written into C and q read from it, token by token. Tiles are the kernels' own."""
        if count != "exact":
            return None
        heads, key, value = self._head(dims)
        q, v, C = (torch.zeros(heads, *shape) for shape in ((1, key), (1, value), (key, value)))
        return lambda: [(q.mT @ v, q @ C) for _ in range(tokens)]

    def init_state(
        self,
        dims: Dims,
        batch: int,
        tokens: int,
        window: GivenWindow = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> MlstmState:
        """An empty memory, at least fp32: H (K V + K + 1) numbers a sequence, however many tokens."""
        heads, key, value = self._head(dims)
        kind = wide(dtype or torch.get_default_dtype())
        shapes = (batch, heads, key, value), (batch, heads, key), (batch, heads, 1)
        return MlstmState(*(torch.zeros(shape, device=device, dtype=kind) for shape in shapes))

    @classmethod
    def kernel(cls, device: str) -> tuple[str, str]:
        """Which implementation of the cell runs on a device ("cpu", "cuda"), and why, in a line."""
        return mlstm_kernels.choose_kernel(device)

    def from_attention(self, attention: AttentionWeights, dims: Dims) -> Sequence[Start]:
        """Queries, keys, values and output, as in arXiv 2603.15590; gates and norm stay as they are built.

        A key has half as many channels here: every second one of each head is taken, which leaves every second pair of
        rotary positions whole (docs/decisions/16-starts-from-attention.md). Biases have no place. Raises ValueError
        unless the heads are the attention's, and fill the width.
        """
        heads, _, value = self._head(dims)
        self.check_sizes(attention, dims, heads=attention.heads)
        if value != attention.head:
            raise ValueError(
                f"mlstm cuts the width into its heads, {heads} of {value} channels at width {dims.width}, which does "
                f"not fit {attention}; no argument changes that: choose gdn, kda or mamba2, which say their own `head`"
            )
        half = range(0, attention.head, 2)
        keys = [attention.start(f"{name}.weight", channels=half) for name in ("q", "k")]
        return [*keys, attention.start("v.weight"), attention.start("out.weight")]

    def _head(self, dims: Dims) -> tuple[int, int, int]:
        """Heads, K and V. Raises ValueError unless the heads divide half the width."""
        heads = self.heads or dims.heads
        half, odd = divmod(dims.width, 2)
        if odd or half % heads:
            fitting = [n for n in range(1, min(half, 64) + 1) if half % n == 0 and not odd]
            right = f"heads may be {', '.join(map(str, fitting))}" if fitting else "the width must be even"
            raise ValueError(f"mlstm: {heads} heads do not divide half the width ({dims.width} / 2); {right}")
        return heads, half // heads, dims.width // heads


class HeadNorm(nn.Module):
    """The weights of a LayerNorm of each head apart: one a channel, and no bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


class MlstmLayer(Layer):
    """The built mLSTM: `forward` for any stretch of tokens, `step` for one, in place."""

    supports_sequence_parallel = True

    def __init__(self, dims: Dims, heads: int, igate_bias: float = -10.0) -> None:
        super().__init__()
        width = dims.width
        self.heads, self.key = heads, width // 2 // heads
        self.q = Linear(width, width // 2, bias=False)
        self.k = Linear(width, width // 2, bias=False)
        self.v = Linear(width, width, bias=False)
        self.igate = WideLinear(width, heads, bias=True)
        self.fgate = WideLinear(width, heads, bias=True)
        self.ogate = Linear(width, width, bias=False)
        self.norm = HeadNorm(width)
        self.out = Linear(width, width, bias=False)
        for into in (self.q, self.k, self.v, self.ogate):
            small_init_(into.weight)
        wang_init_(self.out.weight, dims)
        nn.init.zeros_(self.igate.weight)
        nn.init.zeros_(self.fgate.weight)
        nn.init.constant_(self.igate.bias, igate_bias)
        with torch.no_grad():
            self.fgate.bias.copy_(torch.linspace(3, 6, heads, device="cpu"))  # on meta it would import a compiler

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        window: GivenWindow | Tensor = None,
        document_starts: Tensor | None = None,
    ) -> tuple[Tensor, MlstmState]:
        """(B, T, D) to (B, T, D) and the memory after it. Raises ValueError for a window: an mLSTM has none."""
        if window is not None:
            raise ValueError("mlstm has no window; leave it out")
        memory = MlstmState(*state) if state else None
        gather = self.sequence_parallel.gather
        *mixed, o = self._project(x)
        q, k, v, i, f = (gather(t.transpose(1, 2)).transpose(1, 2) for t in mixed)
        h, after = mlstm_kernels.mlstm_cell(q, k, v, i, f, memory, document_starts)
        return self._emit(o, self.sequence_parallel.scatter(h.transpose(1, 2)).transpose(1, 2)).to(x.dtype), after

    def no_weight_decay(self) -> Sequence[nn.Module]:
        return self.igate, self.fgate

    @torch.no_grad()
    def step(self, x: Tensor, state: State) -> tuple[Tensor, MlstmState]:
        """One token (B, 1, D); `state` is updated in place and returned. For inference: it has no gradient."""
        from hybridkit_blocks.ops.mlstm_step import mlstm_token_  # its operator takes time to register

        memory, x_ = MlstmState(*state), x[:, 0]
        mixed = torch.cat([part(x_) for part in (self.q, self.k, self.v, self.ogate)], -1)
        gates = torch.cat([self.igate.weight, self.fgate.weight])
        y = self.out(mlstm_token_(x_, mixed, gates, self._gate_bias(), self.norm.weight, memory))
        return y[:, None].to(x.dtype), memory

    def decoder(self, norm: nn.RMSNorm | None, rows: int) -> StepFunction:
        if packed.on_gpu(self.q.weight):
            return self._gpu_decoder(norm, rows)
        width, kind, project = self.q.in_features, wide(self.q.weight.dtype), self._packed(norm, rows)
        out = packed.output(norm, self.out.weight * self.norm.weight, rows)
        bias = F.pad(self._gate_bias().to(kind) / GATE_CAP, (0, self.heads))
        cap = torch.full_like(bias[0], GATE_CAP)
        cuts = width // 2, width // 2, width, width, len(bias)

        def run(x: Tensor, state: State) -> tuple[Tensor, MlstmState]:
            memory, x = MlstmState(*state), x[:, 0]
            batch, heads = len(x), self.heads
            q, k, v, o, gates = project(x).split_with_sizes(cuts, -1)
            gates = gates.add(bias).tanh_().mul_(cap).view(batch, 3, heads, 1, 1)
            q, k, v = q.view(batch, heads, 1, -1), k.view(batch, heads, -1, 1), v.view(batch, heads, 1, -1)
            h = recurrent_mlstm_(q, k, v, gates, memory)
            h = torch.layer_norm(h, h.shape[-1:], eps=NORM_EPS).view(batch, width).mul_(o.sigmoid_())
            return out(x, h.to(x.dtype))[:, None], memory

        return run

    def _gpu_decoder(self, norm: nn.RMSNorm | None, rows: int) -> StepFunction:
        """One product for q, k, v and o, one kernel for all up to the output, and one product with the residual sum."""
        from hybridkit_blocks.ops.mlstm_step import mlstm_token_

        unit, out = packed.Unit(norm), packed.output(norm, self.out.weight, rows)
        mixed = [part.weight for part in (self.q, self.k, self.v, self.ogate)]
        project = packed.product(packed.side_by_side(norm, mixed), rows)
        gates = torch.cat([part.weight.to(wide(self.q.weight.dtype)) for part in (self.igate, self.fgate)])
        bias, scale = self._gate_bias(), self.norm.weight

        def run(x: Tensor, state: State) -> tuple[Tensor, MlstmState]:
            memory, x = MlstmState(*state), x[:, 0]
            h = unit(x)
            return out(x, mlstm_token_(h, project(h), gates, bias, scale, memory))[:, None], memory

        return run

    def _gate_bias(self) -> Tensor:
        return torch.cat([self.igate.bias, self.fgate.bias])

    def _packed(self, norm: nn.RMSNorm | None, rows: int) -> packed.Product:
        """All projections of `decoder` at once: q (scaled), k, v, ogate, i and f over their cap, and H zeros."""
        mixed = [self.q.weight * self.key**-0.5, self.k.weight, self.v.weight, self.ogate.weight]
        gates = [self.igate.weight / GATE_CAP, self.fgate.weight / GATE_CAP, torch.zeros_like(self.igate.weight)]
        return packed.normed_product(norm, mixed + [gate.to(wide(gate.dtype)) for gate in gates], rows)

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        """q, k (B, H, T, K), v (B, H, T, V), the gates i, f (B, H, T), and o (B, T, D) before the sigmoid.

        The gates are computed in fp32 or float64 even where the model is bf16.
        """
        parts = self.q, self.k, self.v, self.ogate
        if kind := product_type(x, self.q.weight):
            q, k, v, i, f, o = joined(x, (*parts[:3], self.igate, self.fgate, self.ogate), kind)
            gates = torch.cat([i, f], -1)
        else:
            q, k, v, o = (part(x) for part in parts)
            gates = wide_linear(x, torch.cat([self.igate.weight, self.fgate.weight]))
        i, f = capped_gate(gates + self._gate_bias()).chunk(2, -1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        return q, k, v, i.transpose(1, 2), f.transpose(1, 2), o

    def _emit(self, o: Tensor, h: Tensor) -> Tensor:
        """The output (B, T, D) from o (B, T, D) and the cell's h (B, H, T, V)."""
        y: Tensor = self.out(normed_gate(h.transpose(1, 2), o, self.norm.weight, LAYER_NORM, SIGMOID, NORM_EPS))
        return y
