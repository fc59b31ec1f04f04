"""A rank's share of a batch, in micro-batches: every row is on one rank, and every rank makes as many passes.

B rows of a batch, R data-parallel ranks.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from hybridkit.data.batches import IGNORED, Batch
from hybridkit.model.plan import Plan
from hybridkit.recipe.schema import Train
from hybridkit.system.machine import DTYPES, Precision

CPU_TOKENS = 16384  # of an automatic micro-batch: enough that matrix products run at full speed
KEPT = 16  # vectors of its width that a branch keeps for backward, for each token: an FFN of 8/3, roughly a mixer


def num_targets(batch: Batch) -> int:
    """Targets that count; 0 where a batch has none."""
    return int((batch.targets != IGNORED).sum())


def micro_batches(batch: Batch, rows: int, data_parallel_rank: int = 0, data_parallel_size: int = 1) -> list[Batch]:
    """Rows r, r + R, ... of data-parallel rank r, in parts of `rows`. Rows without targets are added where R does not
    divide B."""
    batch = _padded(batch, -len(batch.tokens) % data_parallel_size)
    mine = slice(data_parallel_rank, None, data_parallel_size)
    parts = (
        t[mine].split(rows) if t is not None else None for t in (batch.tokens, batch.targets, batch.document_starts)
    )
    tokens, targets, document_starts = parts
    assert tokens and targets
    return [
        replace(batch, tokens=part, targets=targets[i], document_starts=document_starts[i] if document_starts else None)
        for i, part in enumerate(tokens)
    ]


def automatic_rows(plan: Plan, train: Train, sequence: int, device: torch.device, precision: Precision) -> int:
    """Sequences of a micro-batch under `micro_batch: auto`: a rule, not a trial, so that runs repeat themselves.

    On a CPU as many as make `CPU_TOKENS`; on a GPU as many as should leave half of its memory free.
    """
    if device.type == "cpu":
        return max(1, CPU_TOKENS // sequence)
    entries = len(plan.branches)
    kept = entries + KEPT if train.recompute else entries * KEPT
    token_bytes = kept * plan.dims.width * DTYPES[precision].itemsize
    memory = torch.cuda.get_device_properties(device).total_memory
    return max(1, memory // 2 // (token_bytes * sequence))


def _padded(batch: Batch, rows: int) -> Batch:
    if rows == 0:
        return batch
    return replace(
        batch,
        tokens=_more(batch.tokens, rows, 0),
        targets=_more(batch.targets, rows, IGNORED),
        document_starts=None if batch.document_starts is None else _more(batch.document_starts, rows, False),
    )


def _more(tensor: Tensor, rows: int, value: float) -> Tensor:
    return F.pad(tensor, (0, 0, 0, rows), value=value)
