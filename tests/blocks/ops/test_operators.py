"""The cells that torch.compile does not look into, as operators: their shapes, and the results of eager code."""

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hybridkit_blocks.ops import mlstm_kernels
from hybridkit_blocks.ops.cpu.banded import banded
from hybridkit_blocks.ops.cpu.banded_operator import banded_operator
from hybridkit_blocks.ops.mlstm_chunkwise import MlstmState, chunkwise_mlstm
from hybridkit_blocks.ops.mlstm_operators import own

CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")
LIBRARY = "mlstm_kernels.torch.chunkwise.triton_xl_chunk"


def cell(tokens: int = 70) -> tuple[list[Tensor], MlstmState, Tensor]:
    """q, k, v, i, f, a memory and document starts."""
    draw = torch.Generator().manual_seed(0)
    shapes = [(2, 2, tokens, width) for width in (8, 8, 16)] + [(2, 2, tokens)] * 2
    inputs = [torch.randn(shape, generator=draw, requires_grad=True) for shape in shapes]
    state = chunkwise_mlstm(*(t.detach() for t in inputs))[1]
    return inputs, MlstmState(*(t.requires_grad_() for t in state)), torch.rand(2, tokens, generator=draw) < 0.05


def with_gradients(found: tuple[Tensor, MlstmState], leaves: list[Tensor]) -> list[Tensor]:
    outputs = [found[0], *found[1]]
    slopes = [torch.linspace(-1, 1, t.numel()).view_as(t) for t in outputs]
    return [*outputs, *torch.autograd.grad(outputs, leaves, slopes)]


@pytest.mark.slow
@pytest.mark.parametrize("marked", [False, True])
def test_the_own_cell_and_its_operator_agree(marked: bool) -> None:
    inputs, state, starts = cell()
    leaves, document_starts = [*inputs, *state], starts if marked else None
    ours, eager = (with_gradients(run(*inputs, state, document_starts), leaves) for run in (own, chunkwise_mlstm))
    torch.testing.assert_close(ours, eager, rtol=0, atol=0)
    torch.library.opcheck(torch.ops.hybridkit.mlstm, (*leaves, document_starts), test_utils=CHECKS)


@pytest.mark.parametrize("window", [None, 5, torch.tensor(5)])
def test_attention_in_blocks_and_its_operator_agree(window: int | Tensor | None) -> None:
    draw = torch.Generator().manual_seed(0)
    leaves = [torch.randn(2, 40, heads, 8, generator=draw, requires_grad=True) for heads in (4, 2, 2)]
    documents = (torch.rand(2, 40, generator=draw) < 0.1).cumsum(1)
    sinks = torch.randn(4, generator=draw, requires_grad=True)
    found = [banded(*leaves, window, documents, 0.3, 5.0, sinks, run) for run in (banded_operator, None)]
    ours, eager = ([y, *torch.autograd.grad(y.square().sum(), [*leaves, sinks])] for y in found)
    torch.testing.assert_close(ours, eager, rtol=0, atol=0)
    q, k, v = (t.detach().transpose(1, 2).flatten(0, 1).contiguous().requires_grad_() for t in leaves)
    given = (q.unflatten(0, (4, 2)).transpose(1, 2).contiguous(), k, v)
    limit = window if isinstance(window, Tensor) else None
    how = None if limit is not None else window, limit, documents.repeat_interleave(2, 0), None, None
    checked = (*given, None, *how)
    torch.library.opcheck(torch.ops.hybridkit.banded, checked, test_utils=CHECKS)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """mlstm_kernels' compiled form, simulated: its arguments, outputs and types, computed by the own form."""

    def forward(
        q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, C: Tensor, n: Tensor, m: Tensor, **said: Any
    ) -> Any:
        assert q.shape[2] % said["chunk_size"] == 0 and all(t.is_contiguous() for t in (q, k, v, i, f))
        h, last = chunkwise_mlstm(q, k, v, i, f, MlstmState(C, n, m))
        vectors = (q.new_zeros(q.shape[:-1]) for _ in range(2))
        return h.contiguous(), *vectors, last, None

    def backward(*given: Tensor, **said: Any) -> Any:
        with torch.enable_grad():
            leaves = [t.detach().clone().requires_grad_() for t in given[:8]]
            h = torch.ops.hybridkit.mlstm(*leaves, None)[0]
        state = torch.ops.hybridkit.mlstm_backward(
            *given[:8], None, said["matDeltaH_out"], *map(torch.zeros_like, given[5:8])
        )
        assert said["vecN_out"].shape == h.shape[:-1]
        return state

    for name, held in (("", {}), (".fw", {"mlstm_chunkwise_fw": forward}), (".bw", {"mlstm_chunkwise_bw": backward})):
        module = ModuleType(LIBRARY + name)
        vars(module).update(held)
        monkeypatch.setitem(sys.modules, LIBRARY + name, module)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch.compile causes warnings by itself
@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("carried", [False, True])
def test_the_compiled_kernel_is_one_operator_forward_and_one_back(carried: bool) -> None:
    """130 tokens: two chunks of 128, the second nearly all padding. The gates keep documents apart to about 1e-6."""
    inputs, state, starts = cell(130)
    memory = MlstmState(*(t.detach() for t in state)) if carried else None
    torch._dynamo.reset()
    run = torch.compile(mlstm_kernels._triton, backend="aot_eager", fullgraph=True)
    found = [call(*inputs, memory, starts) for call in (run, mlstm_kernels._triton, chunkwise_mlstm)]
    compiled, eager, right = ([h, *torch.autograd.grad(h, inputs, torch.ones_like(h))] for h, _ in found)
    torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(eager, right, strict=True):
        assert (ours - theirs).norm() <= 1e-3 * theirs.norm()


def test_counters_know_what_the_operators_multiply() -> None:
    inputs, state, _ = cell(128)
    counts = []
    for run in (own, chunkwise_mlstm):
        with FlopCounterMode(display=False) as counter:
            run(*inputs, state, None)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0
