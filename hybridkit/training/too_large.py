"""What to change when training runs out of memory, by the cost model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from hybridkit.cost.memory import DeviceKind, device_kind
from hybridkit.model.plan import Plan
from hybridkit.recipe.schema import Recipe, Train
from hybridkit.system.choices import Precision
from hybridkit.system.errors import Failure, out_of_memory
from hybridkit.training.engine import Engine
from hybridkit.training.micro_batches import FILLED, training_bytes

_GIB = 2**30


@contextmanager
def naming_what_fits(recipe: Recipe, plan: Plan, engine: Engine, rows: int) -> Iterator[None]:
    """Where memory runs out within, a Failure that says which settings fit."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        memory = total_device_memory(engine.device)
        lighter = lighter_settings(recipe, plan, rows, engine.precision, memory, device_kind(engine.device))
        raise Failure(f"not enough memory to train: {lighter}; go on with --resume") from error


def total_device_memory(device: torch.device) -> int:
    """Bytes of memory that a device has in all."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def lighter_settings(
    recipe: Recipe, plan: Plan, rows: int, precision: Precision, memory: int, device: DeviceKind = "cpu"
) -> str:
    """A sentence: what training with `rows` sequences at once takes, and the settings that fit into so many bytes."""

    def needed(train: Train, count: int, sequence: int) -> int:
        return training_bytes(plan, train, sequence, count, precision, device)

    train, sequence = recipe.train, recipe.data.sequence
    now = needed(train, rows, sequence)
    most = min(FILLED * memory, 0.8 * now)  # the model may be off, and memory be taken by others
    found = [f"{said} ({size / _GIB:.1f} GiB)" for said, size in _tried(train, rows, sequence, needed) if size <= most]
    fitting = "; ".join(found) or "none of fewer rows, train.recompute and a shorter data.sequence: use a smaller model"
    said = f"{rows} sequences of {sequence:,} tokens at once take some {now / _GIB:.1f} GiB, by the cost model"
    return f"{said}, and there are {memory / _GIB:.1f}. What fits: {fitting}"


def _tried(
    train: Train, rows: int, sequence: int, needed: Callable[[Train, int, int], int]
) -> Iterator[tuple[str, int]]:
    """Changes, the lightest in consequences first, with the bytes that training then takes."""
    fewer = rows // 2
    recomputed = train.model_copy(update={"recompute": True})
    if fewer:
        yield f"train.micro_batch={fewer}", needed(train, fewer, sequence)
    if fewer > 1:
        yield "train.micro_batch=1", needed(train, 1, sequence)
    if not train.recompute:
        yield "train.recompute=true", needed(recomputed, rows, sequence)
        if fewer:
            yield "train.recompute=true train.micro_batch=1", needed(recomputed, 1, sequence)
    shorter = sequence // 2
    if shorter:
        yield f"data.sequence={shorter} train.recompute=true train.micro_batch=1", needed(recomputed, 1, shorter)
