"""What a computed value is a sum of: the measure of its rounding where the terms cancel, so that little or 0 is left.

A sum rounded to `eps` is off by some eps times the sum of its terms' absolute values, whatever it comes to. A bound
relative to the result means nothing where that is 0: with a window of 1 the gradients of q and k are.

B batch, T queries, S keys, H heads, K key-value heads, E width of a head.
"""

from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from hybridkit_blocks.ops import mlstm_kernels


def of_attention(
    q: Tensor, k: Tensor, v: Tensor, window: int | None, documents: Tensor | None, direction: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sums of absolute terms of y, dq, dk and dv, shaped as these, for q (B, T, H, E), k and v (B, S, K, E).

    With weights P and G = dL/dy, dq_t is the sum over s of P_ts (G_t . v_s - sum_r P_tr G_t . v_r) k_s / sqrt(E).
    """
    heads, kv_heads, scale = q.shape[2], k.shape[2], q.shape[-1] ** -0.5
    q, k, v, G = (x.detach().double().transpose(1, 2) for x in (q, k, v, direction))
    k, v = (x.repeat_interleave(heads // kv_heads, 1) for x in (k, v))
    P = (q @ k.mT * scale).masked_fill(~_seen(q.shape[2], k.shape[2], window, documents), -torch.inf).softmax(-1)
    grown = G.abs() @ v.abs().mT  # (B, H, T, S): what G . v sums
    dS = P * (grown + (P * grown).sum(-1, keepdim=True)) * scale
    own = (P @ v.abs(), dS @ k.abs(), dS.mT @ q.abs(), P.mT @ G.abs())
    return tuple(
        (x if place < 2 else x.unflatten(1, (kv_heads, -1)).sum(2)).transpose(1, 2) for place, x in enumerate(own)
    )  # type: ignore[return-value]


def _seen(tokens: int, keys: int, window: int | None, documents: Tensor | None) -> Tensor:
    """Which key each query sees: (B or 1, 1, T, S) bool."""
    age = torch.arange(keys - tokens, keys)[:, None] - torch.arange(keys)
    seen = ((age >= 0) & (age < (window or keys)))[None]
    return (seen if documents is None else seen & (documents[:, -tokens:, None] == documents[:, None]))[:, None]


def of_mlstm(layer: nn.Module, x: Tensor, **given: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Output and parameter gradients of an mLSTM layer for the loss sum(y^2), and what they are to be measured by.

    That is their norm, but for the input gate's bias the norm of its sums of absolute terms (H,). A shift of all input
    gates alike is cancelled by the normalizer, but for its floor, and so is the sum of the tokens' gradients.
    """
    drawn: list[Tensor] = []
    cell = mlstm_kernels.mlstm_cell

    def watched(*given: Any) -> Any:
        given[3].register_hook(drawn.append)  # the input gate, (B, H, T)
        return cell(*given)

    with mock.patch.object(mlstm_kernels, "mlstm_cell", watched):
        y = layer(x, **given)[0]
    y.float().square().sum().backward()
    named = {"y": y.detach()} | {name: weight.grad for name, weight in layer.named_parameters()}
    terms = named | {"igate.bias": drawn[0].abs().sum((0, 2))}
    layer.zero_grad()
    return [t.detach().double().cpu() for t in named.values()], [
        t.detach().double().norm().cpu() for t in terms.values()
    ]
