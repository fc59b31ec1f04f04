"""The DeepSpeed engine: ZeRO over the ranks of a launcher, with the same arithmetic as the local engine.

Gradients are sums over the targets of all ranks: DeepSpeed averages over ranks, and so each rank's loss is first
multiplied by their number. Weights stay in fp32, and bf16 is autocast, as in the local engine.
"""

import logging
import resource
import sys
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import deepspeed
import torch
from deepspeed.ops import __compatible_ops__
from deepspeed.utils import logger
from torch import Tensor

from hybridkit.block import recording
from hybridkit.cost.flops import parameters
from hybridkit.data.batches import Batch
from hybridkit.model.plan import Plan
from hybridkit.recipe.schema import Train
from hybridkit.runs.manifest import AVERAGE
from hybridkit.runs.weights import read_tensors
from hybridkit.system.errors import UserError
from hybridkit.system.files import FILES
from hybridkit.system.machine import choose_precision, keep_freed_memory
from hybridkit.training.average import WeightAverage
from hybridkit.training.compile import compile_layers, compiles
from hybridkit.training.engine import Gradient, Save, Windows
from hybridkit.training.engines.deepspeed import DeepSpeed
from hybridkit.training.engines.deepspeed import checkpoint as files
from hybridkit.training.engines.deepspeed.config import settings
from hybridkit.training.engines.deepspeed.model import Loss, join, sharded_model, zero_groups
from hybridkit.training.engines.deepspeed.ulysses import share_sequences
from hybridkit.training.engines.deepspeed.zero import STAGES
from hybridkit.training.engines.local.engine import initial_model
from hybridkit.training.loads import Loads
from hybridkit.training.micro_batches import num_targets as count_targets
from hybridkit.training.objective import CROSS_ENTROPY, Objective
from hybridkit.training.optimizer import Optimizer

SHARED_MEMORY = "deepspeed_shm_comm"  # sums for inference on CPUs, which would be compiled for a minute at first use


class DeepSpeedEngine:
    """One of WORLD_SIZE processes that share a model's training; see `Engine`."""

    def __init__(self, plan: Plan, train: Train, spec: DeepSpeed, optimizer: Optimizer) -> None:
        _quiet()
        (self.rank, self.ranks), self.device = join(train)
        if self.device.type == "cpu":
            keep_freed_memory()
        __compatible_ops__[SHARED_MEMORY] = False
        self.data_parallel_rank = self.rank // spec.sequence_parallel
        self.data_parallel_size = self.ranks // spec.sequence_parallel
        self.precision = choose_precision(train.precision, self.device.type)
        config = settings(spec, train, parameters(plan).total)
        self.model = sharded_model(plan, train.seed, config) if spec.zero == 3 else initial_model(plan, train.seed)
        self.model.recompute, self.model.head.z_loss = train.recompute, train.z_loss
        self._ulysses = share_sequences(self.model, spec.sequence_parallel)
        compiled = compiles(train, self.device) and spec.zero < 3 and spec.sequence_parallel == 1
        if compiled:
            compile_layers(self.model)
        built = optimizer.build(zero_groups(self.model, train.weight_decay, optimizer.hidden_matrices), train)
        loss = Loss(self.model, compiled, self.device, self.precision)
        self._engine = deepspeed.initialize(model=loss, optimizer=built, config=config)[0]
        self._zero = STAGES[spec.zero](self._engine)
        self._zero.set_steps({})
        self._named, self._loads = dict(self.model.named_parameters()), Loads(self.model)
        kept = self.model.state_dict(keep_vars=True)
        self._buffers = {name: buffer for name, buffer in self.model.named_buffers() if name in kept}
        self._objective = CROSS_ENTROPY
        self._average = WeightAverage(self.model, train.ema) if train.ema else None
        self._frozen: frozenset[str] = frozenset()

    def load_weights(self, weights: dict[str, Tensor], origin: str) -> None:
        """Start from these weights. Raises UserError where they are another model's."""
        files.set_weights(self._zero, self._named, self._buffers, weights, origin)
        if self._average:
            self._average.restart()

    def minimize(self, objective: Objective) -> None:
        """In place of cross-entropy. Raises UserError where ranks share sequences."""
        if self._ulysses:
            raise UserError("train.sequence_parallel: ranks that share sequences train on cross-entropy alone; set 1")
        self._objective = objective

    def gradients(self, micro_batches: Sequence[Batch], windows: Windows, num_targets: int) -> Gradient:
        """Accumulate over this rank's micro-batches; the last one also adds up the ranks' gradients."""
        self.zero_grad()
        nats = torch.zeros((), dtype=torch.float64, device=self.device)
        self._loads.clear()
        self._objective.sums.clear()
        for batch in micro_batches:
            self._engine.set_gradient_accumulation_boundary(batch is micro_batches[-1])
            here = self._here(batch)
            with recording() as heard:
                loss = self._engine(self._objective, here, windows)
            self._loads.add(heard, count_targets(here))
            self._engine.backward(loss * (self.ranks / max(1, num_targets)))
            nats += loss.detach()
        for name, parameter in self._named.items() if self._frozen else ():
            if name.startswith(tuple(self._frozen)):
                parameter.grad = None
        self._loads.share(self._added)
        told = self._loads.metrics() | self._objective.metrics(num_targets, self._added)
        return Gradient(self._summed(nats), self._zero.norm(), told)

    def update(self, lr: float) -> None:
        """Clip and step, both DeepSpeed's."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        self._engine.step()
        self._loads.balance(self._frozen)
        if self._average:
            self._average.update()

    def freeze(self, prefixes: frozenset[str]) -> None:
        """As in the local engine; `DeepSpeed.check` refuses it where a rank updates only its share of the weights."""
        self._frozen = prefixes

    def averaged(self) -> AbstractContextManager[None]:
        """The mean in place of the weights, on every rank; `DeepSpeed.check` refuses it where no rank has them all."""
        assert self._average
        return self._average.swapped()

    def zero_grad(self) -> None:
        """Drop the gradient."""
        self._zero.zero_grad()

    @torch.no_grad()
    def evaluate(self, micro_batches: Sequence[Batch], windows: Windows) -> float:
        """The summed loss in nats, of all ranks."""
        nats = [self._engine(CROSS_ENTROPY, self._here(batch), windows).double() for batch in micro_batches]
        return self._summed(torch.stack(nats).sum())

    def save(self) -> Save:
        """Weights and optimizer, gathered while they are written: all ranks wait."""
        own = self._zero, self._named, self._buffers

        def write(folder: Path) -> None:
            files.write(*own, folder, self.rank == 0)
            if self._average and self.rank == 0:
                FILES.tensors(folder / AVERAGE, self._average.tensors())

        return Save(write, detached=False)

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint of any engine, stage and number of ranks. Raises Invalid or UserError."""
        files.load_checkpoint(self._zero, self._named, self._buffers, folder)
        if self._average:
            self._average.load(read_tensors(folder / AVERAGE), str(folder / AVERAGE))

    def all_reduce_max(self, number: int) -> int:
        """The largest that a rank passes."""
        largest = torch.tensor(number, device=self.device)
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
        return int(largest)

    def metrics(self) -> dict[str, float]:
        """The peak memory of a rank in bytes, the largest of all ranks: of the GPU, or of the process on a CPU."""
        return {"peak_memory": self.all_reduce_max(_peak_memory(self.device))}

    def _summed(self, nats: Tensor) -> float:
        return self._added(nats).item()

    def _added(self, numbers: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        torch.distributed.all_reduce(numbers)
        return numbers

    def _here(self, batch: Batch) -> Batch:
        """This rank's part of each sequence, on its device."""
        return (self._ulysses.share(batch) if self._ulysses else batch).to(self.device)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _quiet() -> None:
    """Only DeepSpeed's own warnings, on standard error."""
    warnings.filterwarnings("ignore", "`torch.distributed.*` is deprecated", FutureWarning)
    logger.setLevel(logging.WARNING)
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)
