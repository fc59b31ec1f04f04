"""What a trainer asks of an engine. It knows no more, and so cannot tell one process from a cluster.

An engine computes on its share of a batch and answers for all ranks: sums are taken over them before they are
returned. Every rank makes the same calls in the same order.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from hybridkit.data.batches import Batch
from hybridkit.system.machine import Precision

Windows = Sequence[int | None]  # one an entry


class Gradient(NamedTuple):
    """What a batch says, before anything is updated."""

    nats: float  # the loss summed over the counted targets of all ranks
    norm: float  # of the whole gradient, before clipping


class Save(NamedTuple):
    """An engine's part of a checkpoint, about to be written."""

    write: Callable[[Path], None]  # puts its files into a folder; every rank calls it
    detached: bool  # the files' content is already copied: `write` may run in a thread while training goes on


class Engine(Protocol):
    """Weights, optimizer, and the arithmetic of a step. A new one holds the weights that `train.seed` gives."""

    name: str
    zero: int  # stage of ZeRO: what the ranks share out
    rank: int  # of `ranks` processes; rank 0 writes logs and manifests
    ranks: int
    data_parallel_rank: (
        int  # of `data_parallel_size` shares of each batch: as many as ranks, unless ranks share sequences
    )
    data_parallel_size: int
    device: torch.device
    precision: Precision

    def load_weights(self, weights: dict[str, Tensor], origin: str) -> None:
        """Start from these weights. Raises UserError, naming `origin`, where they are another model's."""

    def gradients(self, micro_batches: Sequence[Batch], windows: Windows, num_targets: int) -> Gradient:
        """Accumulate d(nats / counted) over this rank's micro-batches and all ranks; replaces any gradient held.

        `counted` 0: no target is counted, and the gradient is zero.
        """

    def update(self, lr: float) -> None:
        """Clip the gradient held and take an optimizer step with it."""

    def zero_grad(self) -> None:
        """Drop the gradient held; weights and optimizer stay as they are."""

    def evaluate(self, micro_batches: Sequence[Batch], windows: Windows) -> float:
        """The loss in nats, summed over the counted targets of all ranks; no gradient."""

    def save(self) -> Save:
        """The state after the last update."""

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint whose files agree with its manifest. Raises Invalid or UserError."""

    def all_reduce_max(self, number: int) -> int:
        """The largest of the numbers that the ranks pass. All wait for each other."""

    def figures(self) -> dict[str, float]:
        """What an engine of its own adds to a metrics line, asked for after every update."""
