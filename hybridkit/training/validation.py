"""The loss on the first tokens of the held-out text, always the same ones, at the windows used outside training."""

import math
from collections.abc import Iterator
from itertools import islice

from hybridkit.block import TrainStep
from hybridkit.data.batches import Batch, Feed
from hybridkit.model.plan import Plan
from hybridkit.training.engine import Engine
from hybridkit.training.micro_batches import micro_batches, num_targets

TOKENS, BATCHES = 2**17, 32  # at most, rounded up to a batch: never more than a few training steps cost


def validate(engine: Engine, plan: Plan, feed: Feed, rows: int) -> dict[str, float | None]:
    """`val_loss`, nats a target, and `val_bits_per_byte`, both None where there is no target.

    `rows` of a micro-batch.
    """
    windows = plan.windows(TrainStep(seed=0, step=0, total_steps=1, training=False))
    nats, targets, raw = 0.0, 0, 0
    for batch in _first(feed.validation()):
        nats += engine.evaluate(
            micro_batches(batch, rows, engine.data_parallel_rank, engine.data_parallel_size), windows
        )
        targets += num_targets(batch)
        raw += batch.bytes
    return {"val_loss": nats / targets if targets else None, "val_bits_per_byte": bits_per_byte(nats, raw)}


def bits_per_byte(nats: float, raw: int) -> float | None:
    """Bits that the model needs for a byte of text, given its loss over `raw` bytes; None where there is no text."""
    return nats / math.log(2) / raw if raw else None


def _first(batches: Iterator[Batch]) -> Iterator[Batch]:
    seen = 0
    for batch in islice(batches, BATCHES):
        yield batch
        seen += batch.tokens.numel()
        if seen >= TOKENS:
            return
