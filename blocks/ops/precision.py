"""Which types sums and states have."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type that gates, sums and states have: fp32, or float64 under float64."""
    return torch.promote_types(dtype, torch.float32)


def no_autocast(t: Tensor) -> AbstractContextManager[object]:
    """Autocast off for t's device, where it is on (the meta device has none).

    Whether a device has autocast at all is not asked: the compiler of torch 2.11 breaks its graph at that question.
    """
    device = t.device.type
    on = device != "meta" and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else nullcontext()
