"""Checkpoints of the DeepSpeed engine: the files of the local engine, so that any engine, stage and number of ranks
can resume any other's. DeepSpeed's own formats hold pickles, and are neither written nor read.

Weights and moments are gathered a parameter at a time; rank 0 writes each before it asks for the next.
"""

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from hybridkit.runs.manifest import WEIGHTS, Invalid
from hybridkit.runs.weights import read_tensors
from hybridkit.system.errors import UserError
from hybridkit.training.engines.deepspeed.zero import MOMENTS, Zero
from hybridkit.training.engines.local.engine import OPTIMIZER
from hybridkit.training.safetensors_writer import write_gathered

STEP = "step"


Named = Mapping[str, nn.Parameter]
Buffers = Mapping[str, Tensor]  # every rank holds them whole, and all hold the same


def write(zero: Zero, named: Named, buffers: Buffers, folder: Path, lead: bool) -> None:
    """Weights and optimizer, on the rank that leads; the others take part. Raises OSError."""
    shapes = {name: zero.shape(parameter) for name, parameter in named.items()}
    shapes |= {name: buffer.shape for name, buffer in buffers.items()}
    whole = chain(map(zero.weight, named.values()), buffers.values())
    write_gathered(folder / WEIGHTS if lead else None, shapes, whole)

    def tensors() -> Iterator[Tensor]:
        for parameter in named.values():
            yield from (zero.moment(parameter, what) for what in zero.moments(parameter))
            if zero.moments(parameter) == MOMENTS:
                yield torch.tensor(float(zero.steps(parameter)))

    write_gathered(folder / OPTIMIZER if lead else None, _state_shapes(zero, named), tensors())


def load_checkpoint(zero: Zero, named: Named, buffers: Buffers, folder: Path) -> None:
    """Continue from a checkpoint of either engine. Raises Invalid for a bad file, UserError for another model's."""
    set_weights(zero, named, buffers, read_tensors(folder / WEIGHTS), str(folder))
    tensors = read_tensors(folder / OPTIMIZER)
    shapes = _state_shapes(zero, named)
    for key, value in tensors.items():
        if shapes.get(key) != value.shape:
            raise Invalid(f"the optimizer's {key} {list(value.shape)} fits no parameter of this model")
    zero.set_steps({p: int(tensors.get(f"{name}.{STEP}", 0)) for name, p in named.items()})
    for name, parameter in named.items():
        for what in zero.moments(parameter):
            key = f"{name}.{what}"
            zero.set_moment(parameter, what, tensors.get(key, torch.zeros(shapes[key])))


def _state_shapes(zero: Zero, named: Named) -> dict[str, torch.Size]:
    """The tensors of the optimizer's state, in the order in which they are written."""
    shapes: dict[str, torch.Size] = {}
    for name, parameter in named.items():
        moments = zero.moments(parameter)
        shapes |= {f"{name}.{what}": zero.shape(parameter) for what in moments}
        if moments == MOMENTS:
            shapes[f"{name}.{STEP}"] = torch.Size()
    return shapes


def set_weights(zero: Zero, named: Named, buffers: Buffers, weights: Mapping[str, Tensor], origin: str) -> None:
    """Copy `weights` into the model. Raises UserError, naming `origin` and the first tensor that differs."""
    shapes = {name: zero.shape(parameter) for name, parameter in named.items()}
    shapes |= {name: buffer.shape for name, buffer in buffers.items()}
    for name in dict.fromkeys([*shapes, *weights]):
        wants = list(shapes[name]) if name in shapes else "none"
        has = list(weights[name].shape) if name in weights else "none"
        if has != wants:
            raise UserError(f"{origin} holds another model: {name} is {has} there, and {wants} in this recipe")
    for name, parameter in named.items():
        zero.set_weight(parameter, weights[name])
    for name, buffer in buffers.items():
        buffer.copy_(weights[name])
    zero.refresh()
