"""Weights by name: what a checkpoint stores, and how tensors are read from a file that is not trusted."""

import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from hybridkit.runs.manifest import Invalid
from hybridkit.system.errors import UserError

TYPES = {  # safetensors' names of the float types
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
MAX_HEADER = 16 * 2**20  # bytes; some 100,000 tensors
FLOATS = tuple(TYPES.values())


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor of the model under its name, a shared one once. Not copied: they change as the model trains."""
    named = model.state_dict(keep_vars=True)
    first = {id(tensor): name for name, tensor in reversed(named.items())}
    return {name: tensor.detach() for name, tensor in named.items() if first[id(tensor)] == name}


def check_weights(model: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Raises UserError, naming `origin` and the first tensor that differs, unless `weights` are such a model's.

    The model may be on the meta device.
    """
    own = weights_of(model)
    for name in dict.fromkeys([*own, *weights]):
        has, wants = (f"{list(t.shape)}" if t is not None else "none" for t in (weights.get(name), own.get(name)))
        if has != wants:
            raise UserError(f"{origin} holds another model: {name} is {has} there, and {wants} in this recipe")
        if weights[name].dtype not in FLOATS:
            raise UserError(f"{origin} holds another model: {name} is of {weights[name].dtype}, not a float type")


@torch.no_grad()
def load_weights(model: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Copy `weights` into the model. Raises UserError, naming `origin` and the first tensor that differs."""
    check_weights(model, weights, origin)
    for name, tensor in weights_of(model).items():
        tensor.copy_(weights[name])


def stored_type(path: Path) -> torch.dtype | None:
    """The type of the weights in a safetensors file, from its header alone; None where there is none."""
    try:
        with safe_open(path, "pt") as file:
            return TYPES.get(file.get_slice("norm.weight").get_dtype())
    except (OSError, SafetensorError):
        return None


def stored_shapes(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file on the meta device, from its header alone. Raises Invalid for anything else."""
    _check_header(path)
    try:
        with safe_open(path, "pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # no dictionary
            types = {name: TYPES.get(part.get_dtype(), torch.uint8) for name, part in parts.items()}
            return {
                name: torch.empty(part.get_shape(), dtype=types[name], device="meta") for name, part in parts.items()
            }
    except SafetensorError as error:
        raise Invalid(f"{path.name} is no safetensors file: {error}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU. Raises Invalid for anything else."""
    _check_header(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise Invalid(f"{path.name} is no safetensors file: {error}") from error


def _check_header(path: Path) -> None:
    """Raises Invalid where the header would be larger than the file, or than what is read."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
    if len(start) < 8 or struct.unpack("<Q", start)[0] > min(MAX_HEADER, size - 8):
        raise Invalid(f"{path.name} is no safetensors file: its header would be larger than the file or the limit")
