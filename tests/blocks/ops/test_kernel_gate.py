"""The check of a compiled kernel: its gradients are computed in the thread that asks, apart from the layer's."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from kernels import no_verdicts
from torch.utils.checkpoint import checkpoint

from hybridkit_blocks.ops import delta_kernels, mlstm_kernels, ssd_kernels

CPU = torch.device("cpu")
CHECKS = {
    "HYBRIDKIT_MLSTM": (mlstm_kernels.agrees, (4, 8)),
    "HYBRIDKIT_DELTA": (delta_kernels.agrees, (1, 4, 8)),
    "HYBRIDKIT_SSD": (ssd_kernels.agrees, (1, 4, 8)),
}


@pytest.fixture(params=CHECKS)
def check(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], bool]:
    """The check of a kernel, here the own form's, which has not been made before."""
    agrees, sizes = CHECKS[request.param]
    no_verdicts(monkeypatch, tmp_path, request.param, agrees)
    return partial(agrees, "own", CPU, torch.float32, *sizes)


def test_gradients_of_a_check_have_no_thread_of_their_own(
    check: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch's compiler asks while it holds its lock; a kernel that compiles a part of itself in another thread waits for
    # that lock, as mlstm_kernels' backward does. On a CPU there is no other thread, so the setting is what can be held.
    threads, usual = list[bool](), torch.autograd.grad

    def grad(*given: object, **options: object) -> object:
        threads.append(torch._C._is_multithreading_enabled())
        return usual(*given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.autograd, "grad", grad)
    with torch.inference_mode():  # a check while text is generated
        assert check()
    assert threads and not any(threads)


def test_a_check_is_no_part_of_a_layer_that_is_recomputed(check: Callable[[], bool]) -> None:
    def layer(x: torch.Tensor) -> torch.Tensor:
        assert check()
        return x.sin().square()

    x = torch.randn(5, requires_grad=True)
    (found,) = torch.autograd.grad(checkpoint(layer, x, use_reentrant=False).sum(), x)
    torch.testing.assert_close(found, (2 * x).sin())
