"""The table of SSD scans: the gate refuses kernels that differ, and documents reach fla's as sequences."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from kernels import Scaled, no_verdicts
from torch import Tensor

from hybridkit.block import Dims
from hybridkit_blocks.mamba2 import Mamba2
from hybridkit_blocks.ops import fla_kernels, ssd_kernels
from hybridkit_blocks.ops.ssd import ssd

DIMS, BLOCK = Dims(32, 4, 257), Mamba2(state=8, groups=2)
Result = tuple[Tensor, Tensor]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_verdicts(monkeypatch, tmp_path, "HYBRIDKIT_SSD", ssd_kernels.agrees)


def test_doctor_hears_what_runs_on_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert BLOCK.kernel("cpu")[0] == "own"
    for has, name in ((False, "own"), (True, "fla")):
        monkeypatch.setattr(fla_kernels, "has_fla", lambda has=has: has)
        assert BLOCK.kernel("cuda")[0] == name


def test_a_choice_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDKIT_SSD", "fast")
    with pytest.raises(ValueError, match="HYBRIDKIT_SSD=fast: it may be own, fla"):
        BLOCK.kernel("cpu")
    monkeypatch.setenv("HYBRIDKIT_SSD", "fla")
    monkeypatch.setattr(fla_kernels, "has_fla", lambda: False)
    with pytest.raises(ValueError, match=r"pip install 'hybridkit\[fla\]'"):
        BLOCK.kernel("cpu")


def forced(scan: ssd_kernels.Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another implementation under fla's name."""
    monkeypatch.setitem(ssd_kernels.SCANS, "fla", scan)
    monkeypatch.setattr(fla_kernels, "has_fla", lambda: True)
    monkeypatch.setenv("HYBRIDKIT_SSD", "fla")


def wrong_gradient(mixed: Tensor, dt: Tensor, log_a: Tensor, *rest: Tensor) -> Result:
    return ssd(mixed, dt, Scaled.apply(log_a), *rest)


def leaky(*given: Tensor) -> Result:
    return ssd(*given[:5], None)


def broken(*given: Tensor) -> Result:
    raise RuntimeError("no such instruction")


FAULTS = [(wrong_gradient, "dlog_a is off by 0.1"), (leaky, "y is off by"), (broken, "no such instruction")]


@pytest.mark.parametrize(("scan", "fault"), FAULTS)
def test_a_wrong_kernel_is_refused_aloud_and_the_own_form_runs(
    scan: ssd_kernels.Scan, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced(scan, monkeypatch)
    layer, x = BLOCK.build(DIMS), torch.randn(2, 70, 32)
    with pytest.warns(RuntimeWarning, match=fault):
        y = layer(x)[0]
    monkeypatch.setenv("HYBRIDKIT_SSD", "own")
    assert torch.equal(y, layer(x)[0])


def test_a_right_kernel_runs_and_float64_keeps_the_exact_form(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[object] = []
    forced(lambda *given: ran.append(given) or ssd(*given), monkeypatch)
    BLOCK.build(DIMS).double()(torch.randn(1, 5, 32, dtype=torch.float64))
    assert not ran
    BLOCK.build(DIMS)(torch.randn(1, 5, 32))
    assert ran


def by_sequences(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, scale: float, initial_state: Tensor, **said: object
) -> Result:
    """A stand-in for fla.ops.simple_gla.chunk_simple_gla of 0.6: each sequence of a row alone, from its own state."""
    assert scale == 1 and said.pop("output_final_state") is True and set(said) == {"cu_seqlens"}
    assert q.shape == k.shape and g.shape == v.shape[:3] and initial_state.shape[1:] == (*k.shape[2:], v.shape[3])
    lengths, skip = said["cu_seqlens"], v.new_zeros(v.shape[2])
    mixed = torch.cat([t.flatten(2) for t in (v, k, q)], -1)
    if lengths is None:
        y, after = ssd(mixed, torch.ones_like(g), g, skip, initial_state.mT)
        return y, after.mT
    assert isinstance(lengths, Tensor) and len(q) == 1 and len(initial_state) == len(lengths) - 1
    found = []
    for n, (a, b) in enumerate(zip(lengths[:-1].tolist(), lengths[1:].tolist(), strict=True)):
        state = initial_state[n : n + 1].mT
        found.append(ssd(mixed[:, a:b], torch.ones_like(g[:, a:b]), g[:, a:b], skip, state))
    return torch.cat([y for y, _ in found], 1), torch.cat([after for _, after in found]).mT


@pytest.mark.parametrize("packed", [False, True])
def test_documents_and_states_reach_the_library_as_sequences(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ModuleType("fla.ops.simple_gla")
    fake.chunk_simple_gla = by_sequences  # type: ignore[attr-defined]
    for parent in ("fla", "fla.ops"):
        monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    torch.manual_seed(0)
    shapes = (2, 30, 4 * 3 + 2 * 2 * 5), (2, 30, 4), (4,), (2, 4, 3, 5)
    mixed, dt, skip, state = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    leaves = [t.requires_grad_() for t in (mixed, dt.sigmoid(), -dt.exp(), skip, state)]
    starts = torch.zeros(2, 30, dtype=torch.bool)
    starts[0, 7] = starts[0, 8] = starts[1, 0] = starts[1, 29] = True
    found = []
    for run in (ssd_kernels.SCANS["fla"], ssd):
        y, after = run(*leaves, starts if packed else None)
        loss = y.square().sum() + after.square().sum()
        found.append([y, after, *torch.autograd.grad(loss, leaves)])
    for ours, right in zip(*found, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-10, atol=1e-10)
