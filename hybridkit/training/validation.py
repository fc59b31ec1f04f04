"""The loss on the first tokens of the held-out text, always the same ones, at the windows used outside training."""

import math
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from hybridkit.block import TrainStep
from hybridkit.data.batches import Batch, Feed
from hybridkit.data.mixture import Mixture
from hybridkit.model.plan import Plan
from hybridkit.training.engine import Engine
from hybridkit.training.micro_batches import micro_batches, num_targets

TOKENS, BATCHES = 2**17, 32  # at most, rounded up to a batch: never more than a few training steps cost


class HeldOutLoss(NamedTuple):
    """The loss over held-out text: summed nats, targets, and raw bytes of text."""

    nats: float
    targets: int
    bytes: int

    @property
    def loss(self) -> float | None:
        """Nats a target; None where there is none."""
        return self.nats / self.targets if self.targets else None


def validate(engine: Engine, plan: Plan, feed: Feed, rows: int) -> dict[str, float | None]:
    """`val_loss`, nats a target, and `val_bits_per_byte`, both None where there is no target. `rows` of a micro-batch.

    Of several held-out texts also `val_loss.NAME`; then `val_loss` is that of the first, or the mean by the weights of
    a mixture whose parts each hold out a share.
    """
    if not isinstance(feed, Mixture):
        found = _measured(engine, plan, feed.validation(), rows)
        return {"val_loss": found.loss, "val_bits_per_byte": bits_per_byte(found.nats, found.bytes)}
    every = {name: _measured(engine, plan, held.validation(), rows) for name, held in feed.held_out.items()}
    weights = feed.weights() if feed.weighted else {next(iter(every)): 1.0}
    some = [(weight, every[name]) for name, weight in weights.items() if every[name].targets]
    total = sum(weight for weight, _ in some)
    nats = sum(weight * found.nats / found.targets for weight, found in some)
    raw = sum(weight * found.bytes / found.targets for weight, found in some)  # bytes a target
    main = {"val_loss": nats / total if some else None, "val_bits_per_byte": bits_per_byte(nats, raw)}
    return main | {f"val_loss.{name}": found.loss for name, found in every.items()}


def _measured(engine: Engine, plan: Plan, batches: Iterator[Batch], rows: int) -> HeldOutLoss:
    windows = plan.windows(TrainStep(seed=0, step=0, total_steps=1, training=False))
    nats, targets, raw = 0.0, 0, 0
    for batch in _first(batches):
        shares = micro_batches(batch, rows, engine.data_parallel_rank, engine.data_parallel_size)
        nats += engine.evaluate(shares, windows)
        targets += num_targets(batch)
        raw += batch.bytes
    return HeldOutLoss(nats, targets, raw)


def bits_per_byte(nats: float, raw: float) -> float | None:
    """Bits that the model needs for a byte of text, given its loss over `raw` bytes; None where there is no text."""
    return nats / math.log(2) / raw if raw else None


def _first(batches: Iterator[Batch]) -> Iterator[Batch]:
    seen = 0
    for batch in islice(batches, BATCHES):
        yield batch
        seen += batch.tokens.numel()
        if seen >= TOKENS:
            return
