"""When a compiled kernel runs: only after it has agreed with the own form on this device, type and shape.

On some cards and with some compilers a kernel's results are finite, plausible, and wrong. So outputs and gradients are
compared once; what agrees is recorded on disk, with the versions of all that it depends on.
"""

from __future__ import annotations

import functools
import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from hybridkit.block import building


def step_kernels(device: str) -> bool:
    """Whether the project's own kernels compute a token on a kind of device: on CUDA, where triton is installed.

    HYBRIDKIT_STEP=own|triton in the environment overrides that. Raises ValueError for another value.
    """
    forced = os.environ.get("HYBRIDKIT_STEP")
    if forced not in (None, "", "own", "triton"):
        raise ValueError(f"HYBRIDKIT_STEP={forced}: it may be own, triton")
    return has_triton() and (forced == "triton" if forced else torch.device(device).type == "cuda")


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return find_spec("triton") is not None


def may_run(
    what: str, kernel: str, packages: Sequence[str], device: torch.device, case: str, fault: Callable[[], str]
) -> bool:
    """Whether `kernel` computes `what` ("the mLSTM") as the own form does; if not, a warning says so.

    `case` names type and shape, `packages` what its results depend on beside torch. `fault` says how it differs; empty
    if it does not. It can compute gradients, whoever asks, and they are computed in this thread: torch's compiler asks
    while it holds its lock, for which a kernel that compiles a part of itself in autograd's thread would wait for ever.
    """
    versions = [f"{package} {metadata.version(package)}" for package in ("torch", *packages)]
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    case = f"{kernel} on {card}, {case}, {', '.join(versions)}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "hybridkit" / "kernels"
    passed = cache / hashlib.sha256(case.encode()).hexdigest()
    if passed.exists():
        return True
    try:
        with (
            building(f"the check of {what}'s kernel ({case})"),
            torch.inference_mode(False),  # before the threads, which it would bring back
            torch.enable_grad(),
            torch.autograd.set_multithreading_enabled(False),
            # In place of recomputation's hooks, for which this is no part of a layer.
            saved_tensors_hooks(_as_it_is, _as_it_is),
        ):
            found = fault()
    except Exception as error:  # whatever fails in a compiler, the own form works
        found = f"it fails with {type(error).__name__}: {error}"
    if found:
        warnings.warn(f"{what} runs in plain torch, slower, since {case}: {found}", RuntimeWarning, stacklevel=3)
        return False
    with suppress(OSError):  # where nothing can be written, the next process checks again
        if not cache.is_absolute():  # there is no home
            return True
        cache.mkdir(parents=True, exist_ok=True)
        passed.write_text(case, encoding="utf-8")
    return True


def step_may_run(what: str, device: torch.device, dtype: torch.dtype, case: str, fault: Callable[[], str]) -> bool:
    """`may_run` for the project's own kernels of a decoding step, which are never used in float64."""
    case = f"{dtype}, {case}" if case else str(dtype)
    return dtype != torch.float64 and may_run(what, "triton", ["triton"], device, case, fault)


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def difference(
    names: Sequence[str], found: Sequence[Tensor], right: Sequence[Tensor], dtype: torch.dtype, roundings: int = 8
) -> str:
    """A message that names the first tensor whose relative error is too large; empty where none is.

    Allowed are `roundings` times the type's rounding, or TF32's (2^-10) where that is larger. A wrong gradient has an
    error of about 1.
    """
    tolerance = roundings * max(torch.finfo(dtype).eps, 2.0**-10)
    for name, a, b in zip(names, found, right, strict=True):
        error = float((a.float() - b.float()).norm() / b.float().norm())
        if not error <= tolerance:
            return f"{name} is off by {error:.2g}, more than {tolerance:.2g}"
    return ""
