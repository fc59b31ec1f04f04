"""What training a plan takes in memory, in bytes: weights, gradients, AdamW's moments, activations.

Blocks do not declare what they keep for backward. Instead every distinct layer runs forward on fake tensors, which have
shapes and storages but no data, and the tensors that autograd saves are added up. This is done for two short lengths;
longer ones, and many rows, follow by linear extrapolation. Kernels are those of a CPU, with one exception: for a GPU
the mLSTM's is the library's, if that is installed, since it keeps less.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from hybridkit.block import Entry, GivenWindow, assuming, window_limit, window_of
from hybridkit.cost.flops import CostSettings, parameters
from hybridkit.model.loss import loss_bytes
from hybridkit.model.model import Model
from hybridkit.model.plan import Plan, Uninitialized
from hybridkit.system.choices import Precision
from hybridkit.system.machine import weight_type

DeviceKind = Literal["cpu", "cuda"]
ZERO_STAGES = (0, 1, 2, 3)  # of ZeRO
_LENGTHS = (256, 512)  # tokens; multiples of the usual chunks
_ROWS = 16  # of a micro-batch; beyond twice as many, linear extrapolation
_BACKWARD = 6  # gradients as large as the stream that backward holds (docs/decisions/15-memory-of-backward.md)


def device_kind(device: torch.device) -> DeviceKind:
    """What memory depends on, of a device."""
    return "cuda" if device.type == "cuda" else "cpu"


@dataclass(frozen=True)
class Training:
    """How a plan would be trained: precision of the arithmetic, sequences of a forward pass, ranks, whether documents
    are kept apart (`data.documents: reset`), and on what."""

    precision: Precision = "fp32"
    micro_batch: int = 1
    ranks: int = 1
    resets: bool = True
    device: DeviceKind = "cpu"


@dataclass(frozen=True)
class PersistentMemory:
    """Bytes that stay allocated between steps: master weights, their gradients, AdamW's mean and variance."""

    weights: int
    gradients: int
    optimizer: int

    def on_rank(self, stage: int, ranks: int) -> int:
        """Bytes on each rank: ZeRO (arXiv 1910.02054) divides the optimizer's from stage 1, gradients from stage 2,
        weights at stage 3."""
        parts = ((self.optimizer, 1), (self.gradients, 2), (self.weights, 3))
        return sum(-(-size // ranks) if stage >= since else size for size, since in parts)


@dataclass(frozen=True)
class Activations:
    """Bytes after a forward pass with everything kept, and at the peak of backward under `train.recompute`."""

    kept: int
    recomputed: int
    passing: int  # what is held as well, for a while: by the loss, or as gradients on the way back, whichever is more

    def peak(self, recompute: bool) -> int:
        """Bytes held at most: at the loss, or in the backward pass."""
        return self.recomputed if recompute else self.kept + self.passing


def persistent_memory(plan: Plan, training: Training) -> PersistentMemory:
    """What a plan holds in training, on one rank without ZeRO."""
    weights = parameters(plan).total * weight_type(training.precision).itemsize
    return PersistentMemory(weights, weights, 2 * weights)


def weight_sizes(plan: Plan) -> dict[str, int]:
    """The elements of a model's weights by name, a tied head's left out; nothing is allocated."""
    with torch.device("meta"), Uninitialized():
        return {name: weight.numel() for name, weight in Model(plan).named_parameters()}


def activations(plan: Plan, training: Training, settings: CostSettings) -> Activations:
    """Of `micro_batch` sequences of `settings.context` tokens, at `settings.window` or else the largest windows."""
    bare = Plan((), (), replace(plan.config, vocab=1, tie=False, embedding_scale=None))
    around, stream = _kept(bare, (), training, settings.context)

    def alone(entry: Entry) -> int:
        windows = tuple(window_limit(window_of(block), settings.window) for block in entry.branches)
        return _kept(replace(bare, entries=(entry,)), windows, training, settings.context)[0] - around

    layers = [alone(entry) for entry in plan.entries]
    # The loss computes the gradients of its input and of the head's weight in forward (hybridkit.model.loss).
    width, vocab, gradients = plan.dims.width, plan.dims.vocab, _BACKWARD * stream
    loss = stream + width * vocab * weight_type(training.precision).itemsize
    tokens, narrow = training.micro_batch * settings.context, training.precision == "bf16"
    logits = loss_bytes(tokens, vocab, width, training.device, narrow)
    recomputed = stream * len(layers) + max(max(layers, default=0) + gradients, logits)
    return Activations(around + loss + sum(layers), around + loss + recomputed, max(gradients, logits))


@lru_cache(1 << 12)
def _kept(plan: Plan, windows: tuple[GivenWindow, ...], training: Training, tokens: int) -> tuple[int, int]:
    """Bytes that a stack keeps for backward, and bytes of its output."""
    if training.micro_batch > 2 * _ROWS:  # layers that work in chunks take a time that grows with the rows
        return _more_rows(lambda some: _kept(plan, windows, some, tokens), training, _ROWS)
    (first, output), (second, longer) = (_fake_run(plan, windows, training, length) for length in _LENGTHS)
    along = Fraction(tokens - _LENGTHS[0], _LENGTHS[1] - _LENGTHS[0])
    # Under fp64 everything has twice the width that it has under fp32.
    width = weight_type(training.precision).itemsize // 4
    return width * int(first + along * (second - first)), width * int(output + along * (longer - output))


def _fake_run(plan: Plan, windows: tuple[GivenWindow, ...], training: Training, tokens: int) -> tuple[int, int]:
    # Imported here, since it brings torch's compiler with it: a second.
    from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

    try:
        with FakeTensorMode():
            return _run(plan, windows, training, tokens)
    except (DataDependentOutputException, DynamicOutputShapeException):
        return _real_run(plan, windows, training, tokens)


def _real_run(plan: Plan, windows: tuple[GivenWindow, ...], training: Training, tokens: int) -> tuple[int, int]:
    """Of a layer that reads values, which fake tensors lack: one row and two are run, and more follow from them."""
    return _more_rows(lambda some: _run(plan, windows, some, tokens), training, 1)


def _more_rows(run: Callable[[Training], tuple[int, int]], training: Training, rows: int) -> tuple[int, int]:
    """What follows for the micro-batch from runs of `rows` and of twice as many, along a line."""
    (few, output), (many, larger) = (run(replace(training, micro_batch=n)) for n in (rows, 2 * rows))
    times = Fraction(training.micro_batch - rows, rows)
    return int(few + times * (many - few)), int(output + times * (larger - output))


def _run(plan: Plan, windows: tuple[GivenWindow, ...], training: Training, tokens: int) -> tuple[int, int]:
    """One forward pass of the stack: bytes of the storages that autograd saved, weights left out, and of the output."""
    with Uninitialized():
        model = Model(plan)
    shape, saved = (training.micro_batch, tokens), list[Tensor]()  # kept alive, so that no address is used twice
    document_starts = torch.zeros(shape, dtype=torch.bool) if training.resets else None

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with (
        assuming(training.device),
        saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=training.precision == "bf16"),
    ):
        y, _ = model.hidden(torch.zeros(shape, dtype=torch.int64), windows=windows, document_starts=document_starts)
    own = _storages(list(model.parameters()))
    stream = torch.get_default_dtype().itemsize  # also under autocast, which computes the last norm in bf16
    return sum(size for place, size in _storages(saved).items() if place not in own), y.numel() * stream


def _storages(tensors: Sequence[Tensor]) -> dict[int, int]:
    """Bytes by storage: views share one."""
    return {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
