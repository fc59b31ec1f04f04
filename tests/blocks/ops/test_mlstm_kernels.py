"""The table of mLSTM kernels: the library's forms agree with the own one, and the gate refuses those that do not."""

from pathlib import Path

import pytest
import torch
from kernels import Scaled, no_verdicts
from torch import Tensor

from hybridkit.block import Dims
from hybridkit_blocks.mlstm import Mlstm
from hybridkit_blocks.ops import kernel_gate, mlstm_kernels
from hybridkit_blocks.ops.mlstm_chunkwise import MlstmState, chunkwise_mlstm

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_verdicts(monkeypatch, tmp_path, "HYBRIDKIT_MLSTM", mlstm_kernels.agrees)


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert (actual - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("tokens", [1, 63, 64, 200])
def test_the_librarys_native_form_agrees_with_the_own_one(tokens: int) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, tokens, width, requires_grad=True) for width in (8, 8, 16))
    i, f = (torch.randn(2, 3, tokens, requires_grad=True) for _ in range(2))
    document_starts = torch.rand(2, tokens) < 0.05
    state = chunkwise_mlstm(q, k, v, i, f)[1]
    outputs = []
    for name in ("own", "native"):
        h, after = mlstm_kernels.CELLS[name](q, k, v, i, f, state, document_starts)
        outputs.append((h, *after, *torch.autograd.grad(h.square().mean(), (q, k, v, i, f), retain_graph=True)))
    for a, b in zip(*outputs, strict=True):
        close(b, a, 1e-3)  # fp32, and n . q near zero, which magnifies rounding where it divides


def test_the_library_is_what_the_environment_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = Mlstm().build(Dims(32, 4, 257)), torch.randn(2, 70, 32)
    own, ran = layer(x)[0], []
    monkeypatch.setitem(mlstm_kernels.CELLS, "native", lambda *a: ran.append(a) or native(*a))
    monkeypatch.setenv("HYBRIDKIT_MLSTM", "native")
    close(layer(x)[0], own, 1e-5)
    assert ran and Mlstm().kernel("cpu") == ("native", "HYBRIDKIT_MLSTM=native asks for it")


native = mlstm_kernels.CELLS["native"]


def test_a_choice_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDKIT_MLSTM", "fast")
    with pytest.raises(ValueError, match="HYBRIDKIT_MLSTM=fast: it may be own, native, triton"):
        Mlstm().kernel("cpu")
    monkeypatch.setenv("HYBRIDKIT_MLSTM", "triton")
    monkeypatch.setattr(mlstm_kernels, "has_triton", lambda: False)
    with pytest.raises(ValueError, match=r"pip install 'hybridkit\[triton\]'"):
        Mlstm().kernel("cpu")


def test_doctor_hears_what_runs_on_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Mlstm().kernel("cpu")[0] == "own"
    for has, name in ((False, "own"), (True, "triton")):
        monkeypatch.setattr(mlstm_kernels, "has_triton", lambda has=has: has)
        assert Mlstm().kernel("cuda")[0] == name


def wrong_gradient(*inputs: Tensor) -> tuple[Tensor, MlstmState]:
    q, k, v, i, f, *rest = inputs
    return chunkwise_mlstm(Scaled.apply(q), k, v, i, f, *rest)


def wrong_output(*inputs: Tensor) -> tuple[Tensor, MlstmState]:
    h, after = chunkwise_mlstm(*inputs)
    return h.roll(1, 2), after


def leaky(*inputs: Tensor) -> tuple[Tensor, MlstmState]:
    return chunkwise_mlstm(*inputs[:6], None)


def broken(*inputs: Tensor) -> tuple[Tensor, MlstmState]:
    raise RuntimeError("no such instruction")


@pytest.mark.parametrize(
    ("kernel", "fault"),
    [
        (wrong_gradient, "dq is off by 0.1"),
        (wrong_output, "h is off by"),
        (leaky, "h is off by"),
        (broken, "no such instruction"),
    ],
)
def test_a_wrong_kernel_is_refused_aloud_and_the_own_form_runs(
    kernel: mlstm_kernels.CellFunction, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(mlstm_kernels.CELLS, "triton", kernel)
    monkeypatch.setattr(mlstm_kernels, "has_triton", lambda: True)
    monkeypatch.setenv("HYBRIDKIT_MLSTM", "triton")
    layer, x = Mlstm().build(Dims(32, 4, 257)), torch.randn(2, 70, 32)
    with pytest.warns(RuntimeWarning, match=fault):
        y = layer(x)[0]
    monkeypatch.setenv("HYBRIDKIT_MLSTM", "own")
    assert torch.equal(y, layer(x)[0])


def test_a_right_kernel_passes_and_the_verdict_is_kept_by_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mlstm_kernels.CELLS, "triton", chunkwise_mlstm)
    assert mlstm_kernels.agrees("triton", CPU, torch.bfloat16, 4, 8)
    monkeypatch.setitem(mlstm_kernels.CELLS, "triton", broken)
    mlstm_kernels.agrees.cache_clear()
    assert mlstm_kernels.agrees("triton", CPU, torch.bfloat16, 4, 8), "what passed is not tried again"
    monkeypatch.setattr(kernel_gate.metadata, "version", lambda package: "2.0")
    mlstm_kernels.agrees.cache_clear()
    with pytest.warns(RuntimeWarning, match="no such instruction"):
        assert not mlstm_kernels.agrees("triton", CPU, torch.bfloat16, 4, 8)


def test_training_over_a_carried_memory_and_float64_keep_the_exact_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mlstm_kernels.CELLS, "triton", broken)
    monkeypatch.setattr(mlstm_kernels, "has_triton", lambda: True)
    monkeypatch.setattr(mlstm_kernels, "agrees", lambda *case: True)
    monkeypatch.setenv("HYBRIDKIT_MLSTM", "triton")
    layer, x = Mlstm().build(Dims(32, 4, 257)), torch.randn(2, 7, 32)
    layer(x, Mlstm().init_state(Dims(32, 4, 257), 2, 7))
    layer.double()(x.double())
    with torch.no_grad(), pytest.raises(RuntimeError, match="no such instruction"):
        layer.float()(x, Mlstm().init_state(Dims(32, 4, 257), 2, 7))
