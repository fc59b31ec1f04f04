"""For tests of the gate that library kernels pass: a clean start, and a fault that it has to find."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hybridkit_blocks.ops import kernel_gate


def no_verdicts(patch: pytest.MonkeyPatch, folder: Path, variable: str, agrees: Callable[..., Any]) -> None:
    """No verdict of an earlier test, and none kept in the user's cache; no kernel forced; any version will do."""
    agrees.cache_clear()  # type: ignore[attr-defined]
    patch.setenv("XDG_CACHE_HOME", str(folder))
    patch.delenv(variable, raising=False)
    patch.setattr(kernel_gate.metadata, "version", lambda package: "1.0")


class Scaled(torch.autograd.Function):
    """The identity, whose gradient is off by a tenth: finite, plausible, and wrong."""

    @staticmethod
    def forward(ctx: object, t: Tensor) -> Tensor:
        return t.clone()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return 1.1 * grad
