"""A rank's share of a batch, in micro-batches: every row is on one rank, and every rank makes as many passes.

B rows of a batch, R data-parallel ranks.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from hybridkit.cost.flops import CostSettings
from hybridkit.cost.memory import DeviceKind, Training, activations, persistent_memory
from hybridkit.data.batches import IGNORED, Batch
from hybridkit.model.plan import Plan
from hybridkit.recipe.schema import Train
from hybridkit.system.choices import Precision

CPU_TOKENS = 16384  # of an automatic micro-batch: enough that matrix products run at full speed
FILLED = 0.85  # of a GPU's memory: the rest is for what the cost model does not know


def num_targets(batch: Batch) -> int:
    """Targets that count; 0 where a batch has none."""
    return int((batch.targets != IGNORED).sum())


def micro_batches(batch: Batch, rows: int, data_parallel_rank: int = 0, data_parallel_size: int = 1) -> list[Batch]:
    """Rows r, r + R, ... of data-parallel rank r, in parts of `rows`. Rows without targets are added where R does not
    divide B."""
    batch = with_rows(batch, -(-len(batch.tokens) // data_parallel_size) * data_parallel_size)
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


def automatic_rows(
    plan: Plan, train: Train, sequence: int, device: torch.device, precision: Precision, beside: int = 0
) -> int:
    """Sequences of a micro-batch under `micro_batch: auto`: a rule, not a trial, so that runs repeat themselves.

    On a CPU as many as make `CPU_TOKENS`; on a GPU as many as should fit in `FILLED` of its memory, less the bytes
    `beside` that something else holds there, such as a teacher.
    """
    if device.type == "cpu":
        return max(1, CPU_TOKENS // sequence)
    memory = torch.cuda.get_device_properties(device).total_memory
    return rows_within(int(FILLED * memory) - beside, plan, train, sequence, precision, "cuda")


def rows_within(
    memory: int, plan: Plan, train: Train, sequence: int, precision: Precision, device: DeviceKind = "cpu"
) -> int:
    """Sequences of a micro-batch whose training takes at most so many bytes, by the cost model; at least one."""
    one, two = (training_bytes(plan, train, sequence, rows, precision, device) for rows in (1, 2))
    return max(1, 1 + (memory - one) // max(1, two - one))


def training_bytes(
    plan: Plan, train: Train, sequence: int, rows: int, precision: Precision, device: DeviceKind = "cpu"
) -> int:
    """What training takes with micro-batches of `rows` sequences, by the cost model, on one rank without ZeRO."""
    held = persistent_memory(plan, Training(precision))
    own = held.weights + held.gradients + held.optimizer
    if precision == "bf16":
        own += held.weights // 2  # the copies that are cast once a step
    training = Training(precision, rows, resets=True, device=device)
    return own + activations(plan, training, CostSettings(sequence)).peak(train.recompute)


def with_rows(batch: Batch, number: int) -> Batch:
    """The batch with rows without targets behind it, so that it has a number of rows at least."""
    rows = number - len(batch.tokens)
    if rows <= 0:
        return batch
    return replace(
        batch,
        tokens=_more(batch.tokens, rows, 0),
        targets=_more(batch.targets, rows, IGNORED),
        document_starts=None if batch.document_starts is None else _more(batch.document_starts, rows, False),
    )


def _more(tensor: Tensor, rows: int, value: float) -> Tensor:
    return F.pad(tensor, (0, 0, 0, rows), value=value)
