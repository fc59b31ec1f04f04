"""What a step minimizes: a number for a model and a batch, summed over the targets. By default cross-entropy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from hybridkit.cost.flops import TRAINING, forward_flops
from hybridkit.data.batches import Batch
from hybridkit.model.model import Model
from hybridkit.model.plan import Plan
from hybridkit.model.residual import BranchWindows


class Objective:
    """Cross-entropy of the next token, in nats. A subclass minimizes something else."""

    nats: ClassVar[bool] = True  # False: the loss is not nats of text, so that no bits per byte follow from it

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}  # of a step: figures by name, summed over the targets, for its metrics

    def __call__(self, model: Model, batch: Batch, windows: BranchWindows) -> Tensor:
        """The loss summed over the targets that count, a scalar; the batch is on the model's device.

        Whatever it adds to `sums` has no gradient.
        """
        loss, _ = model(
            batch.tokens,
            windows=windows,
            document_starts=batch.document_starts,
            targets=batch.targets,
            keep_states=False,
        )
        return loss

    def begin(self, model: Model) -> None:
        """Before the first step of a process: `model` is the engine's, with the weights that training starts from."""

    @property
    def held_bytes(self) -> int:
        """Bytes that it holds on the device beside the engine's, once it has begun."""
        return 0

    def entries(self) -> Mapping[str, str]:
        """What manifests record of it: a run goes on with the same objective only."""
        return {}

    def flops(self, plan: Plan, tokens: int, windows: Sequence[int | None]) -> int:
        """FLOPs of training on one sequence, as `hybridkit.cost.flops` counts them."""
        return TRAINING * forward_flops(plan, tokens, windows)

    def add(self, name: str, value: Tensor) -> None:
        """Add a scalar to a figure of this step."""
        value = value.detach().double()
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def metrics(self, targets: int, summed: Callable[[Tensor], Tensor] = lambda value: value) -> dict[str, float]:
        """The figures of a step a target; `summed` adds over ranks, all of which have the same figures."""
        return {name: (summed(value) / max(1, targets)).item() for name, value in self.sums.items()}


CROSS_ENTROPY = Objective()
