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

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridkit.block import Dims, GivenWindow, Layer, Linear, State, StepFunction, packed, small_init_, wang_init_
from hybridkit_blocks.ops import delta_kernels
from hybridkit_blocks.ops.activation import SIGMOID, SILU, Activation
from hybridkit_blocks.ops.convolution import Convolution, convolve
from hybridkit_blocks.ops.custom_autograd import product_type
from hybridkit_blocks.ops.delta_block import DeltaBlock, DeltaState
from hybridkit_blocks.ops.delta_token import DeltaRates, DeltaRule, delta_in_torch, log_decay
from hybridkit_blocks.ops.joined import WideLinear, joined
from hybridkit_blocks.ops.normed_gate import RMS_NORM, normed_gate
from hybridkit_blocks.ops.precision import wide

GATES: Mapping[str, Activation] = {"silu": SILU, "sigmoid": SIGMOID}


class DeltaLayer(Layer):
    """The built mixer: `forward` for any stretch of tokens, `step` for one, in place."""

    supports_sequence_parallel = True
    A_log: nn.Parameter  # (H,), of the decay
    dt_bias: nn.Parameter  # (H G,)
    lower_bound: float | None = None  # of the log decay
    activation: Activation | None  # of the gate

    def __init__(self, block: DeltaBlock, dims: Dims) -> None:
        super().__init__()
        self.name, self.sizes, self.eps = block.name(), block.sizes(dims), block.norm_eps
        self.top = 2.0 if block.allow_neg_eigval else 1.0  # beta lies between 0 and this
        q, k, v = self.sizes.channels
        self.q, self.k, self.v = (Linear(dims.width, width, bias=False) for width in (q, k, v))
        self.b = WideLinear(dims.width, self.sizes.heads)
        self.conv = Convolution(q + k + v, block.conv, block.conv_bias, SILU)
        self.norm = nn.Parameter(torch.ones(self.sizes.value))
        self.out = Linear(v, dims.width, bias=False)
        for layer in (self.q, self.k, self.v, self.b):
            small_init_(layer.weight)
        wang_init_(self.out.weight, dims)

    @property
    @abstractmethod
    def inputs(self) -> Sequence[nn.Linear]:
        """The linear layers that read x beside q, k, v and b."""

    @property
    def raising(self) -> Sequence[nn.Linear]:
        """The linear layers that read what `inputs` give, one each; none where that is used as it is."""
        return ()

    @property
    def decays(self) -> DeltaRates:
        """What makes the log decay g (..., H, G) of the first that `raising` or else `inputs` give; at least fp32."""
        kind = wide(self.A_log.dtype)
        rate = self.A_log.to(kind).exp()[:, None]
        return DeltaRates(rate.neg() if self.lower_bound is None else rate, self.dt_bias.to(kind), self.lower_bound)

    @abstractmethod
    def gate_of(self, given: Sequence[Tensor]) -> Tensor | None:
        """The gate (..., H V) before its function, from what `raising` or else `inputs` give; None: there is none."""

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
        q, k, v, b, *low = self._project(x)
        given = self._raised(low, self.raising)
        (q, k, v), inputs = self._convolved((q, k, v), held, document_starts)
        beta, g = gather(torch.sigmoid(b) * self.top), gather(log_decay(given[0], self.decays))
        o, S = delta_kernels.delta_cell(q, k, v, beta, g, held.S if held else None, document_starts)
        y = self._gated(self.sequence_parallel.scatter(o), self.gate_of(given))
        return self.out(y.to(x.dtype)).to(x.dtype), DeltaState(S, inputs)

    @torch.no_grad()
    def step(self, x: Tensor, state: State) -> tuple[Tensor, DeltaState]:
        """One token (B, 1, D); `state` is updated in place and returned. For inference: it has no gradient."""
        held, x = DeltaState(*state), x[:, 0]
        q, k, v, b, *low = (linear(x) for linear in (self.q, self.k, self.v, self.b, *self.inputs))
        given = self._raised(low, self.raising)
        y = self._token()(torch.cat([q, k, v], -1), b, given, held) * self._norm_weights()
        return self.out(y.to(x.dtype))[:, None].to(x.dtype), held

    def decoder(self, norm: nn.RMSNorm | None, rows: int) -> StepFunction:
        token, out = self._token(), packed.output(norm, self.out.weight * self._norm_weights(), rows)
        weights = [torch.cat([each.weight for each in (self.q, self.k, self.v)])]
        for each in (self.b, *self.inputs):
            own = each.weight.dtype
            weights.append(each.weight.to(wide(own) if isinstance(each, WideLinear) else own))
        project = packed.normed_parts(norm, weights, rows)
        raising = [packed.product(linear.weight, rows) for linear in self.raising]

        def run(x: Tensor, state: State) -> tuple[Tensor, DeltaState]:
            held, x = DeltaState(*state), x[:, 0]
            qkv, b, *given = project(x)
            return out(x, token(qkv, b, self._raised(given, raising), held).to(x.dtype)).unsqueeze(1), held

        return run

    def _project(self, x: Tensor) -> Sequence[Tensor]:
        """What q, k, v, b and `inputs` give (B, T, outputs)."""
        layers = self.q, self.k, self.v, self.b, *self.inputs
        kind = product_type(x, self.q.weight)
        return joined(x, layers, kind) if kind else [layer(x) for layer in layers]

    def _raised(self, given: Sequence[Tensor], products: Sequence[packed.Product]) -> Sequence[Tensor]:
        """What the products of `raising` give (..., outputs), in the weights' type."""
        own = self.q.weight.dtype
        return [run(t.to(own)) for run, t in zip(products, given, strict=True)] if products else given

    def _convolved(
        self, mixed: Sequence[Tensor], held: DeltaState | None, document_starts: Tensor | None
    ) -> tuple[Sequence[Tensor], Tensor]:
        """q, k (B, T, J, K) and v (B, T, H, V) after the convolution, and its inputs that later tokens see.

        q and k are at least fp32: what is divided by its length is not rounded before
        (docs/decisions/17-rounding-before-a-length.md).
        """
        conv, channels, outputs, inputs = self.conv, self.sizes.channels, [], []
        before = held.inputs.split(channels, -1) if held else (None,) * 3
        biases = (None,) * 3 if conv.bias is None else conv.bias.split(channels)
        heads = self.sizes.key_heads, self.sizes.key_heads, self.sizes.heads
        kinds = wide(mixed[0].dtype), wide(mixed[1].dtype), mixed[2].dtype
        for t, weight, bias, past, number, kind in zip(
            mixed, conv.weight.split(channels), biases, before, heads, kinds, strict=True
        ):
            own = self._own(weight, number), None if bias is None else self._own(bias, number)
            t = self.sequence_parallel.gather(t.unflatten(-1, (number, -1)))
            y, after = convolve(t.flatten(-2), *own, conv.activation, past, document_starts, kind)
            outputs.append(y.view(t.shape))
            inputs.append(after)
        return outputs, torch.cat(inputs, -1)

    def _own(self, t: Tensor, heads: int) -> Tensor:
        """What belongs to own heads of a tensor of all channels (C, .)."""
        return self.sequence_parallel.own_heads(t.unflatten(0, (heads, -1))).flatten(0, 1)

    def _token(self) -> Callable[[Tensor, Tensor, Sequence[Tensor], DeltaState], Tensor]:
        """A function that makes y (B, H V) of one token, not yet multiplied by the weights of the norm.

        It takes the projections q, k, v side by side (B, C), b, the inputs of decay and gate, and the state, which it
        changes in place.
        """
        _, key_heads, key, value = self.sizes
        mix, rule = (
            self.conv.stepper(),
            (DeltaRule(key_heads, self.top, self.eps, self.activation), self.decays, key, value),
        )
        if packed.on_gpu(self.norm):
            from hybridkit_blocks.ops.delta_step import delta_token  # its operator takes time to register

            token = delta_token(*rule, self.q.weight.dtype)
        else:
            token = delta_in_torch(*rule)

        def run(qkv: Tensor, b: Tensor, given: Sequence[Tensor], held: DeltaState) -> Tensor:
            return token(mix(qkv, held.inputs), b, given[0], self.gate_of(given), held.S)

        return run

    def _norm_weights(self) -> Tensor:
        """What `_token` leaves to be multiplied with its y (H V)."""
        return (self.norm * self.sizes.value**0.5).repeat(self.sizes.heads)

    def _gated(self, o: Tensor, gate: Tensor | None) -> Tensor:
        """RMSNorm of each head of o (B, T, H, V), times its gate: (B, T, H V)."""
        if gate is not None and self.activation is not None:
            return normed_gate(o, gate, self.norm, RMS_NORM, self.activation, self.eps)
        kind = wide(o.dtype)
        return F.rms_norm(o.to(kind), (self.sizes.value,), self.norm.to(kind), self.eps).flatten(-2)
