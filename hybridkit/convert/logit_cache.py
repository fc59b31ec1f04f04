"""The teacher's largest logits on the disk: they are computed once, also for other students on the same batches.

One file for each micro-batch, named by a hash of what it was made of; it holds a hash of what is in it. The run that
writes a file goes on with the values as the file holds them, so that a run that reads it gets the same numbers.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from hybridkit.convert.head_loss import TopLogits
from hybridkit.data.batches import Batch
from hybridkit.runs.manifest import Invalid
from hybridkit.runs.weights import read_tensors
from hybridkit.system.files import FILES

HASH = "sha256"  # of the other tensors of a file


class LogitCache:
    """Of one teacher and one k, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, batch: Batch, make: Callable[[], TopLogits]) -> TopLogits:
        """What is kept of the batch, or what `make` gives. Raises OSError where that cannot be written."""
        device = batch.tokens.device
        name = _digest(batch)
        file = self._folder / name[:2] / f"{name}.safetensors"
        if file.is_file():
            try:
                kept = read_tensors(file)
                if kept.pop(HASH).tolist() != _hash(kept):
                    raise Invalid(f"{file.name} is damaged")
                return TopLogits(kept["values"].to(device), kept["ids"].to(device))
            except (Invalid, KeyError, OSError):
                pass  # damaged: made again
        made = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.part")
        tensors = {name: value.cpu().contiguous() for name, value in made._asdict().items()}
        FILES.tensors(part, {**tensors, HASH: torch.tensor(_hash(tensors), dtype=torch.uint8)})
        FILES.rename(part, file)
        return made


def _hash(tensors: Mapping[str, Tensor]) -> list[int]:
    """A hash, byte by byte."""
    said = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        said.update(repr((name, tensor.dtype, tensor.shape)).encode())
        said.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return list(said.digest())


def _digest(batch: Batch) -> str:
    said = hashlib.blake2b(repr(tuple(batch.tokens.shape)).encode(), digest_size=16)
    for part in (batch.tokens, batch.targets, batch.document_starts):
        said.update(b"-" if part is None else part.cpu().numpy().tobytes())
    return said.hexdigest()
