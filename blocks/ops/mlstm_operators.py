"""The mLSTM cell as operators of torch.library (operators.py): the own form, where torch.compile compiles a layer, and
mlstm_kernels' compiled form in whole chunks, whose memory takes no gradient.

Letters as in mlstm_chunkwise.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from hybridkit_blocks.ops.mlstm_chunkwise import Chunkwise, MlstmState, empty_state
from hybridkit_blocks.ops.mlstm_span import columns
from hybridkit_blocks.ops.operators import operator
from hybridkit_blocks.ops.precision import no_autocast

_INPUTS = "Tensor q, Tensor k, Tensor v, Tensor i, Tensor f, Tensor C, Tensor n, Tensor m"


def own(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: MlstmState | None, document_starts: Tensor | None
) -> tuple[Tensor, MlstmState]:
    """`chunkwise_mlstm` as one operator."""
    h, *after = _own(q, k, v, i, f, *(state or empty_state(k, v)), document_starts)
    return h, MlstmState(*after)


_own = operator("mlstm", Chunkwise, f"{_INPUTS}, Tensor? document_starts", outputs=4)


def triton(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: MlstmState | None, chunk: int
) -> tuple[Tensor, MlstmState]:
    """mlstm_kernels' compiled form as one operator, for contiguous inputs of whole chunks."""
    h, C, n, m, _, _ = _triton(q, k, v, i, f, *(state or empty_state(k, v)), chunk)
    return h, MlstmState(C, n, m)


@torch.library.custom_op(
    "hybridkit::mlstm_triton",
    mutates_args=(),
    schema=f"({_INPUTS}, int chunk) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _triton(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, C: Tensor, n: Tensor, m: Tensor, chunk: int) -> Any:
    from mlstm_kernels.torch.chunkwise.triton_xl_chunk.fw import mlstm_chunkwise_fw  # imports triton

    with no_autocast(q):
        h, norm, level, last, _ = mlstm_chunkwise_fw(
            q, k, v, i, f, C, n, m, return_last_states=True, chunk_size=chunk, output_dtype=q.dtype, eps=1e-6
        )
    return h, last[0], last[1], last[2].reshape(m.shape), norm, level


@_triton.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, C: Tensor, n: Tensor, m: Tensor, chunk: int) -> Any:
    vectors = (q.new_empty(q.shape[:-1]) for _ in range(2))
    return q.new_empty(v.shape), *(t.new_empty(t.shape, dtype=torch.float32) for t in (C, n, m)), *vectors


@torch.library.custom_op(
    "hybridkit::mlstm_triton_backward",
    mutates_args=(),
    schema=f"({_INPUTS}, Tensor norm, Tensor level, Tensor dh, int chunk) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _triton_backward(*given: Any) -> tuple[Tensor, ...]:
    from mlstm_kernels.torch.chunkwise.triton_xl_chunk.bw import mlstm_chunkwise_bw

    *inputs, norm, level, dh, chunk = given
    with no_autocast(dh):
        grads = mlstm_chunkwise_bw(
            *inputs, vecN_out=norm, vecM_out=level, matDeltaH_out=dh, chunk_size=chunk, eps=1e-6,
            matDeltaC_last=torch.zeros_like(inputs[5]),
        )  # fmt: skip
    return tuple(grad.to(like.dtype).contiguous() for grad, like in zip(grads[:5], inputs[:5], strict=True))


@_triton_backward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, *_: Any) -> Any:
    return tuple(t.new_empty(t.shape) for t in (q, k, v, i, f))


def _keep_triton(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.chunk = inputs
    ctx.save_for_backward(*tensors, *output[4:])


def _through_triton(ctx: Any, dh: Tensor, *_: Any) -> Any:
    return *_triton_backward(*ctx.saved_tensors, dh.contiguous(), ctx.chunk), None, None, None, None


_triton.register_autograd(_through_triton, setup_context=_keep_triton)


def _products(q: torch.Size, v: torch.Size, length: int, chunks: int) -> int:
    """FLOPs of the chunkwise form: states written and read, and the pairs of a chunk."""
    (batch, heads, _, key), value = q, columns(v[-1])
    return batch * heads * chunks * length * (4 * key * value + 2 * length * (key + value))


@register_flop_formula(torch.ops.hybridkit.mlstm_triton)
def _(q: Any, k: Any, v: Any, *rest: Any, **_: Any) -> int:
    return _products(q, v, rest[5], q[2] // rest[5])


@register_flop_formula(torch.ops.hybridkit.mlstm_triton_backward)
def _(q: Any, k: Any, v: Any, *rest: Any, **_: Any) -> int:
    return 2 * _products(q, v, rest[-1], q[2] // rest[-1])
