"""One token of the delta rule between its convolution and its last product, for decoding.

From q, k and v of a token, which have passed the convolution, b, the decay's input f and the gate's, a head computes

    beta = top sigmoid(b)    S = exp(g) S    S = S + k^ (beta (v - S^T k^))^T    o = S^T q^    y = act(gate) o / rms(o)

where ^ divides by the length, and g is `log_decay` of f. The weights of the norm are left out. delta_step.py has
kernels of the same for a GPU.

Letters: B batch, H value heads, J key heads, K and V width of a key and a value, G = 1 or K decays a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridkit_blocks.ops.activation import Activation
from hybridkit_blocks.ops.delta_rule import EPS, recurrent_delta_

# From mixed (B, 2 J K + H V), b (B, H), f (B, H G), gate (B, H V) or None, and S (B, H, K, V), which is changed in
# place, to y (B, H V).
DeltaToken = Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor], Tensor]


class DeltaRates(NamedTuple):
    """What the decays of a layer depend on beside f."""

    rate: Tensor  # (H, 1): exp(A_log), below 0 without a lowest decay
    bias: Tensor  # (H G,)
    lowest: float | None


class DeltaRule(NamedTuple):
    """What beside its tensors tells one layer's rule from another's."""

    key_heads: int
    top: float  # beta lies between 0 and this
    eps: float  # of the norm of o
    activation: Activation | None  # of the gate


def log_decay(f: Tensor, decays: DeltaRates) -> Tensor:
    """g (..., H, G) of f (..., H G), in the rates' type: -exp(A_log) softplus(f + bias), or, with a lowest decay,
    lowest sigmoid(exp(A_log) (f + bias))."""
    rate, bias, lowest = decays
    raised = (f.to(rate.dtype) + bias).unflatten(-1, (len(rate), -1))
    return F.softplus(raised) * rate if lowest is None else torch.sigmoid(raised * rate) * lowest


def delta_in_torch(rule: DeltaRule, decays: DeltaRates, key: int, value: int) -> DeltaToken:
    """Everything is computed in the memory's type.

    It leaves out the factor 1 / sqrt(K) of q, so that o is sqrt(K) times as large; the norm of o takes that away again,
    with an eps that is K times as large.
    """
    (key_heads, top, eps, activation), heads, kind = rule, len(decays.rate), decays.rate.dtype
    given, cut = (EPS, key * value * eps), 2 * key_heads * key
    least = [torch.full((), one**0.5, dtype=kind, device=decays.rate.device) for one in given]

    def run(mixed: Tensor, b: Tensor, f: Tensor, gate: Tensor | None, S: Tensor) -> Tensor:
        keys, v = mixed.split_with_sizes((cut, heads * value), -1)
        keys = keys.unflatten(-1, (2, key_heads, key))
        keys = keys / torch.linalg.vector_norm(keys, dim=-1, keepdim=True).hypot_(least[0])
        if heads != key_heads:
            keys = keys.repeat_interleave(heads // key_heads, 2)
        q, k = keys.unbind(1)
        beta, kept = torch.sigmoid(b), log_decay(f, decays).exp_()
        beta = (beta if top == 1 else beta * top).view(-1, 1, 1)
        rows = q.reshape(-1, 1, key), k.reshape(-1, 1, key), v.reshape(-1, 1, value)
        o = recurrent_delta_(*rows, beta, kept.view(len(beta), -1, 1), S.flatten(0, 1))
        o.div_(torch.linalg.vector_norm(o, dim=-1, keepdim=True).hypot_(least[1]))
        y = o.view(-1, heads * value)
        return y if gate is None or activation is None else y * activation.apply(gate.to(y.dtype))

    return run
