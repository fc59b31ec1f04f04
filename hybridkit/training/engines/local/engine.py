"""The local engine: plain torch, one process, a CPU or one GPU."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from hybridkit.block import recording
from hybridkit.data.batches import Batch
from hybridkit.model.model import Model
from hybridkit.model.plan import Plan
from hybridkit.recipe.schema import Train
from hybridkit.runs.manifest import AVERAGE, WEIGHTS
from hybridkit.runs.weights import load_weights, read_tensors, weights_of
from hybridkit.system.files import FILES
from hybridkit.system.machine import (
    DTYPES,
    choose_device,
    choose_precision,
    keep_freed_memory,
    spare_memory,
    weight_type,
)
from hybridkit.training.average import WeightAverage
from hybridkit.training.bf16_weights import NarrowWeights, narrow_names
from hybridkit.training.compile import compile_layers, compiles, for_graphs
from hybridkit.training.engine import Gradient, Save, Windows
from hybridkit.training.loads import Loads
from hybridkit.training.micro_batches import num_targets as count_targets
from hybridkit.training.micro_batches import with_rows
from hybridkit.training.objective import CROSS_ENTROPY, Objective
from hybridkit.training.optimizer import Optimizer, optimizer_of
from hybridkit.training.optimizer_state import load_optimizer_state, optimizer_state, parameter_groups

OPTIMIZER = "optimizer.safetensors"


def initial_model(plan: Plan, seed: int) -> Model:
    """The model with the weights that a seed gives: drawn on the CPU in fp32, hence the same for every device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Model(plan)


class LocalEngine:
    """fp32 weights, and where the precision is bf16, autocast and copies that are cast once a step; see `Engine`."""

    rank, ranks, data_parallel_rank, data_parallel_size = 0, 1, 0, 1

    def __init__(self, plan: Plan, train: Train, optimizer: Optimizer | None = None) -> None:
        self.device = choose_device(train.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.precision = choose_precision(train.precision, self.device.type)
        self.model = initial_model(plan, train.seed)
        self.model.recompute, self.model.head.z_loss = train.recompute, train.z_loss
        names = narrow_names(self.model) if self.precision == "bf16" else []
        self.model.to(self.device, weight_type(self.precision))
        self._narrow = NarrowWeights(self.model, names) if names else None
        self.working = self._narrow.working if self._narrow else self.model  # what runs
        self._compiled = compiles(train, self.device)
        if self._compiled:
            compile_layers(self.working)
        optimizer = optimizer or optimizer_of(train)
        groups = parameter_groups(self.model, train.weight_decay, optimizer.hidden_matrices)
        self._optimizer = optimizer.build(groups, train)
        self._average = WeightAverage(self.model, train.ema) if train.ema else None
        self._frozen: frozenset[str] = frozenset()
        self._max_grad_norm, self._loads = train.clip, Loads(self.working)
        self._norm, self._objective = torch.zeros(()), CROSS_ENTROPY
        self._most_rows = 0  # of a micro-batch so far

    def load_weights(self, weights: dict[str, Tensor], origin: str) -> None:
        """Start from these weights. Raises UserError where they are another model's."""
        load_weights(self.model, weights, origin)
        if self._average:
            self._average.restart()

    def minimize(self, objective: Objective) -> None:
        """In place of cross-entropy."""
        self._objective = objective

    def gradients(self, micro_batches: Sequence[Batch], windows: Windows, num_targets: int) -> Gradient:
        """Accumulate over the micro-batches."""
        self.zero_grad()
        self._cast()
        nats = torch.zeros((), dtype=torch.float64, device=self.device)
        self._loads.clear()
        self._objective.sums.clear()
        self._most_rows = max([self._most_rows, *(len(batch.tokens) for batch in micro_batches)])
        for batch in micro_batches:
            with recording() as heard:
                loss = self._loss(self._objective, batch, windows)
            self._loads.add(heard, count_targets(batch))
            (loss / max(1, num_targets)).backward()
            nats += loss.detach()
        for name, parameter in self.model.named_parameters() if self._frozen else ():
            if name.startswith(tuple(self._frozen)):
                parameter.grad = None
        self._norm = get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        told = self._loads.metrics() | self._objective.metrics(num_targets)
        return Gradient(nats.item(), self._norm.item(), told)

    def update(self, lr: float) -> None:
        """Clip and step."""
        if self._max_grad_norm is not None:
            clip_grads_with_norm_(self.model.parameters(), self._max_grad_norm, self._norm)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self._loads.balance(self._frozen)
        self.zero_grad()
        if self._average:
            self._average.update()

    def freeze(self, prefixes: frozenset[str]) -> None:
        """Their gradients are dropped before they are clipped, so that the optimizer passes over them."""
        self._frozen = prefixes

    def averaged(self) -> AbstractContextManager[None]:
        """In this context the running mean stands in place of the weights."""
        assert self._average
        return self._average.swapped()

    def zero_grad(self) -> None:
        """Drop the gradient."""
        self._optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def evaluate(self, micro_batches: Sequence[Batch], windows: Windows) -> float:
        """The summed loss in nats."""
        self._cast()
        if self._compiled:  # the last batch of a text has fewer rows, for which every layer would be compiled anew
            micro_batches = [with_rows(batch, self._most_rows) for batch in micro_batches]
        return sum(self._loss(CROSS_ENTROPY, batch, windows).item() for batch in micro_batches)

    def save(self) -> Save:
        """Weights and optimizer. They are copied where twice their size is free, so that training goes on meanwhile."""
        parts = {WEIGHTS: weights_of(self.model), OPTIMIZER: optimizer_state(self.model, self._optimizer)}
        if self._average:
            parts[AVERAGE] = self._average.tensors()
        size = sum(t.numel() * t.element_size() for part in parts.values() for t in part.values())
        detached = 2 * size < spare_memory()
        if detached:
            parts = {file: {name: _copied(t) for name, t in part.items()} for file, part in parts.items()}

        def write(folder: Path) -> None:
            for file, part in parts.items():
                FILES.tensors(folder / file, part)

        return Save(write, detached)

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint of any engine. Raises Invalid for a bad file, UserError for another model's."""
        load_weights(self.model, read_tensors(folder / WEIGHTS), str(folder))
        load_optimizer_state(self.model, self._optimizer, read_tensors(folder / OPTIMIZER))
        if self._average:
            self._average.load(read_tensors(folder / AVERAGE), str(folder / AVERAGE))

    def all_reduce_max(self, number: int) -> int:
        """The number: there is one rank."""
        return number

    def metrics(self) -> dict[str, float]:
        """None: the lines of two runs of one recipe are equal, but for time."""
        return {}

    def _cast(self) -> None:
        if self._narrow:
            self._narrow.refresh()

    def _loss(self, objective: Objective, batch: Batch, windows: Windows) -> Tensor:
        """Summed over the targets, a scalar."""
        with torch.autocast(self.device.type, DTYPES["bf16"], enabled=self.precision == "bf16"):
            given = for_graphs(self.model.plan, windows, self.device) if self._compiled else windows
            return objective(self.working, batch.to(self.device), given)


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)
