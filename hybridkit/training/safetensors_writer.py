"""Safetensors files written a tensor at a time: tensors gathered from ranks need not all fit into one memory.

The format: eight bytes that hold the header's length, a JSON header with the place of every tensor, then the tensors.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from hybridkit.system.files import FILES

_ALIGNMENT = 8  # of the header's end
_BYTES = torch.float32.itemsize


class TensorFile:
    """A safetensors file of fp32 tensors whose shapes are known beforehand; `add` takes them in the same order."""

    def __init__(self, path: Path, shapes: Mapping[str, torch.Size]) -> None:
        self._file: BinaryIO = path.open("wb")
        header, end = {}, 0
        for name, shape in shapes.items():
            begin, end = end, end + shape.numel() * _BYTES
            header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        FILES.write(self._file, len(text).to_bytes(8, "little") + text)

    def add(self, tensor: Tensor) -> None:
        """The next tensor. Raises OSError."""
        assert tensor.dtype == torch.float32
        FILES.write(self._file, tensor.detach().cpu().contiguous().reshape(-1).numpy().tobytes())

    def close(self) -> None:
        """All were added."""
        self._file.close()


def write_gathered(path: Path | None, shapes: Mapping[str, torch.Size], tensors: Iterable[Tensor]) -> None:
    """Write `tensors`, which all ranks gather together, where `path` is given; elsewhere only take part.

    Raises OSError after the last one was gathered, since the other ranks wait for this one until then.
    """
    file, error = None, None
    try:
        file = TensorFile(path, shapes) if path else None
    except OSError as failed:
        error = failed
    for tensor in tensors:
        if file and error is None:
            try:
                file.add(tensor)
            except OSError as failed:
                error = failed
    if file:
        file.close()
    if error:
        raise error
