"""What a trainer asks of an engine, and what a recipe says of one.

An engine computes on its share of a batch and answers for all ranks: sums are taken over them before they are
returned. Every rank makes the same calls in the same order. The trainer cannot tell one process from a cluster.

Nothing here imports torch: a mistake in a recipe is told at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, NoReturn, Protocol

from hybridkit.recipe.choices import ENGINE
from hybridkit.recipe.schema import Recipe, Section, Train
from hybridkit.registry.registry import REGISTRY, Registry
from hybridkit.system.errors import UserError
from hybridkit.system.spec import Value
from hybridkit.training.optimizer import Optimizer, optimizer_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from hybridkit.cost.memory import PersistentMemory
    from hybridkit.data.batches import Batch
    from hybridkit.model.model import Model
    from hybridkit.model.plan import Plan
    from hybridkit.system.choices import Precision
    from hybridkit.training.objective import Objective

Windows = Sequence[int | None]  # one an entry


class Gradient(NamedTuple):
    """The result of a batch, before the update."""

    nats: float  # the objective's loss summed over the targets of all ranks
    norm: float  # of the whole gradient, before clipping
    metrics: Mapping[str, Any] = {}  # what layers and the objective recorded, such as the loads of experts


class Save(NamedTuple):
    """An engine's part of a checkpoint, about to be written."""

    write: Callable[[Path], None]  # puts its files into a folder; every rank calls it
    detached: bool  # the files' content is already copied: `write` may run in a thread while training goes on


class Engine(Protocol):
    """Weights, optimizer, and the arithmetic of a step. A new one holds the weights that `train.seed` gives."""

    rank: int  # of `ranks` processes; rank 0 writes logs and manifests
    ranks: int
    data_parallel_rank: int  # among those that share each batch: all ranks, unless some share a sequence
    data_parallel_size: int
    device: torch.device
    model: Model  # the whole of it, which may be evaluated on one rank, unless the engine's spec refuses probes
    precision: Precision

    def load_weights(self, weights: dict[str, Tensor], origin: str) -> None:
        """Start from these weights. Raises UserError, naming `origin`, where they are another model's."""

    def minimize(self, objective: Objective) -> None:
        """From now on, `gradients` are those of this objective. Raises UserError where the engine cannot compute it."""

    def gradients(self, micro_batches: Sequence[Batch], windows: Windows, num_targets: int) -> Gradient:
        """Accumulate d(nats / num_targets) over this rank's micro-batches and all ranks; drops the gradient before.

        `num_targets` 0: the batch has no target, and the gradient is zero.
        """

    def update(self, lr: float) -> None:
        """Clip the gradient and take an optimizer step with it."""

    def freeze(self, prefixes: frozenset[str]) -> None:
        """From now on, weights whose names begin so have no gradient and no update."""

    def averaged(self) -> AbstractContextManager[None]:
        """Within, `evaluate` uses the running mean of the weights (`train.ema`)."""

    def zero_grad(self) -> None:
        """Drop the gradient; weights and optimizer stay as they are."""

    def evaluate(self, micro_batches: Sequence[Batch], windows: Windows) -> float:
        """The cross-entropy in nats, summed over the targets of all ranks, whatever is minimized; no gradient."""

    def save(self) -> Save:
        """The state after the last update."""

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint whose files agree with its manifest. Raises Invalid or UserError."""

    def all_reduce_max(self, number: int) -> int:
        """The largest of the numbers that the ranks pass. All wait for each other."""

    def metrics(self) -> dict[str, float]:
        """What this engine adds to a metrics line, asked for after every update."""


class EngineSpec(Section, ABC):
    """What a recipe says of an engine: the fields that it declares stand flat under `train`.

    A file in training/engines/, or a plug-in, holds one such class, and is named as `train.engine` names it.
    """

    kind: ClassVar[str] = "engine"
    many_ranks: ClassVar[bool] = False  # True: several processes may share a run

    @abstractmethod
    def open(self, plan: Plan, train: Train, optimizer: Optimizer) -> Engine:
        """The engine. Raises UserError where it cannot run here."""

    def check(self, recipe: Recipe, ranks: int) -> None:
        """Raises UserError where so many ranks cannot train a recipe. Imports no torch."""

    def launch(self, hostfile: Path) -> NoReturn:
        """Start this very command on every host of a file, in place of this process. Raises UserError."""
        raise UserError(f"--hostfile {hostfile}: this engine starts no ranks on other hosts")

    @property
    def sequence_ranks(self) -> int:
        """How many ranks share each sequence."""
        return 1

    def persistent_bytes(self, memory: PersistentMemory, ranks: int) -> int:
        """What one of the ranks holds of a model's weights, gradients and moments."""
        return memory.on_rank(0, ranks)

    def manifest_entries(self) -> Mapping[str, Value]:
        """What this engine adds to manifests and to estimates."""
        return {}


def engine_of(train: Train, registry: Registry = REGISTRY) -> EngineSpec:
    """The engine that a recipe names, with its fields. Raises UserError where its file fails."""
    cls = registry.get(ENGINE, train.engine)
    made: EngineSpec = cls(**{name: getattr(train, name) for name in cls.model_fields})
    return made


def open_engine(plan: Plan, train: Train, registry: Registry = REGISTRY) -> Engine:
    """The engine that a recipe names, with its optimizer. Raises UserError where it cannot run here."""
    return engine_of(train, registry).open(plan, train, optimizer_of(train, registry))
