"""Which device's kernels layers take while their memory is estimated, on tensors that have no numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor


class _Assumed:
    """What `assuming` sets."""

    device: str | None = None


@contextmanager
def assuming(device: str) -> Iterator[None]:
    """Have layers take the kernels of a kind of device, wherever their tensors are."""
    before, _Assumed.device = _Assumed.device, device
    try:
        yield
    finally:
        _Assumed.device = before


def assumed_device(x: Tensor) -> str | None:
    """The kind of device that is assumed for a layer of x; None where x lies on its own."""
    return None if _Assumed.device in (None, x.device.type) else _Assumed.device
