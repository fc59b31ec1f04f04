"""Sequence parallelism over heads (DeepSpeed Ulysses, arXiv 2309.14509): some ranks share each sequence.

P ranks of a group, B batch, T tokens of a sequence, of which each rank holds T / P, H heads, of which each works on
H / P between projections.
"""

from dataclasses import replace

import torch
from deepspeed.sequence.layer import _SeqAllToAll
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import functional as F

from hybridkit.block import Layer, SequenceParallel
from hybridkit.data.batches import IGNORED, Batch
from hybridkit.model.model import Model
from hybridkit.system.errors import UserError

TOKENS, HEADS = 1, 2  # dimensions of (B, T, H, .)


class Ulysses(SequenceParallel):
    """Divides a sequence among the ranks of a group, in the order of their numbers."""

    def __init__(self, size: int) -> None:
        self.ranks = size
        self._place = torch.distributed.get_rank() % size
        self._group = _own_group(size)

    def begin(self, tokens: int) -> int:
        """The position of this rank's first token."""
        return self._place * tokens

    def gather(self, x: Tensor) -> Tensor:
        """(B, T / P, H, .) to (B, T, H / P, .). Raises UserError where the ranks do not divide the heads."""
        if x.shape[HEADS] % self.ranks:
            raise UserError(
                f"train.sequence_parallel: {self.ranks} ranks cannot share {x.shape[HEADS]} heads; it must divide the"
                " heads and kv_heads of every mixer"
            )
        return self._exchange(x, HEADS, TOKENS)

    def scatter(self, x: Tensor) -> Tensor:
        """(B, T, H / P, .) to (B, T / P, H, .)."""
        return self._exchange(x, TOKENS, HEADS)

    def own_heads(self, x: Tensor) -> Tensor:
        """(H, .) to (H / P, .): the heads that `gather` leaves here."""
        return x.chunk(self.ranks)[self._place]

    def share(self, batch: Batch) -> Batch:
        """This rank's stretch of every sequence, filled up at the end to P equal ones; `document_starts` stay whole."""
        spare = -batch.tokens.shape[1] % self.ranks
        length = (batch.tokens.shape[1] + spare) // self.ranks
        own = slice(self._place * length, (self._place + 1) * length)
        return replace(
            batch,
            tokens=F.pad(batch.tokens, (0, spare))[:, own].contiguous(),
            targets=F.pad(batch.targets, (0, spare), value=IGNORED)[:, own].contiguous(),
            document_starts=None if batch.document_starts is None else F.pad(batch.document_starts, (0, spare)),
        )

    def _exchange(self, x: Tensor, scattered: int, gathered: int) -> Tensor:
        """DeepSpeed's all-to-all, whose gradient is the exchange back; gates have no last dimension."""
        wide = x if x.dim() == 4 else x[..., None]
        moved: Tensor = _SeqAllToAll.apply(self._group, wide.contiguous(), scattered, gathered, 0)
        return moved.view(*moved.shape[: x.dim()])


def share_sequences(model: Model, size: int) -> Ulysses | None:
    """Set up every mixer for sequences that `size` ranks share; None where `size` is 1, which needs nothing.

    Raises UserError for a mixer that cannot share them.
    """
    if size == 1:
        return None
    ulysses = Ulysses(size)
    for (_, _, block), layer in zip(model.plan.branches, model.branches(), strict=True):
        assert isinstance(layer, Layer)
        if block.is_mixer and not layer.supports_sequence_parallel:
            raise UserError(
                f"train.sequence_parallel: {block.name()} cannot train on a sequence shared by ranks; set it to 1"
            )
        layer.sequence_parallel = ulysses
    return ulysses


def _own_group(size: int) -> ProcessGroup:
    """The group of neighbours that this rank belongs to; every rank makes all groups."""
    ranks = range(torch.distributed.get_world_size())
    groups = [torch.distributed.new_group(list(ranks[first : first + size])) for first in ranks[::size]]
    return groups[torch.distributed.get_rank() // size]
