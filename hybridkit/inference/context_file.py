"""A context in a file: read a long document once, ask it many times.

One safetensors file: the logits, and `<branch>.<field>` for every tensor of every state. Its metadata say which model
read the tokens (a hash of its layers and weights), and hold a hash of all the rest of the file.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hybridkit.block import State
from hybridkit.inference.decode import LAST, Context
from hybridkit.model.model import Model
from hybridkit.runs.weights import FLOATS
from hybridkit.system.errors import UserError
from hybridkit.system.files import write_whole
from hybridkit.system.pydantic_errors import first_error
from hybridkit.system.strict_json import parse_json

_KEY, _VERSION = "hybridkit context", 1
_MOST = 2**48  # tokens that a context has read
_KINDS = (*FLOATS, torch.int64, torch.int32, torch.bool)  # of a state's tensors


class About(BaseModel):
    """What a file says of its context."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[1]
    model: str = Field(max_length=128)
    tokens: int = Field(ge=1, lt=_MOST)
    window: int | None = Field(ge=1, lt=2**63)
    last: list[Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(max_length=LAST)]] = []  # ids of each row


def save_context(context: Context, model: Model, path: Path) -> None:
    """Write a context that `model` has read. Raises OSError, and then leaves `path` as it was."""
    tensors = {"logits": context.logits}
    for branch, state in zip(model.plan.branches, context.states, strict=True):
        tensors |= {f"{branch.name}.{field}": tensor for field, tensor in zip(_fields(state), state, strict=True)}
    tensors = {name: tensor.cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    about = {"version": _VERSION, "model": fingerprint(model), "tokens": context.tokens, "window": context.window}
    about["last"] = context.last
    write_whole(path, save(tensors, {_KEY: json.dumps(about | {"hash": _hash(about, tensors)})}))


def load_context(path: Path, model: Model) -> Context:
    """The context in a file. Raises UserError for a file that holds none, is damaged, or is another model's."""
    about, tensors = _read(path)
    if about.model != fingerprint(model):
        raise UserError(f"{path} is the state of another model: layers, weights or precision differ from this one's")
    device = model.head.weight.device
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    try:
        return _context(model, about, tensors)
    except (ValueError, KeyError, RuntimeError, IndexError, OverflowError) as error:
        said = str(error).splitlines()[0][:200]
        raise UserError(f"{path} holds no state of this model ({said}); save the state again") from error


def fingerprint(model: Model) -> str:
    """A hash of everything that decides what a model computes: its layers, sizes and weights."""
    plan = model.plan
    layers = {
        "entries": list(map(str, plan.entries)),
        "dims": str(plan.dims),
        "cap": plan.config.logit_cap,
    }
    if plan.config.row_scale != 1:
        layers["embedding_scale"] = plan.config.row_scale
    if plan.config.norm_eps != 1e-6:  # older files do not name it
        layers["norm_eps"] = plan.config.norm_eps
    layers |= plan.config.stack_options()
    return _hash(layers, {name: tensor.cpu() for name, tensor in model.state_dict().items()})


@torch.no_grad()
def _context(model: Model, about: About, tensors: Mapping[str, Tensor]) -> Context:
    """The context in a file from any source. Raises various errors for tensors that do not fit."""
    logits = _fitting("logits", tensors, (-1, model.plan.dims.vocab), model.head.weight.dtype)
    states, windows = list[State](), model.fixed_windows(about.window)
    for branch, window in zip(model.plan.branches, windows, strict=True):
        like = branch.block.init_state(
            model.plan.dims, len(logits), about.tokens, window, device="meta", dtype=model.head.weight.dtype
        )
        names = [f"{branch.name}.{field}" for field in _fields(like)]
        fields = [_fitting(name, tensors, wanted.shape, wanted.dtype) for name, wanted in zip(names, like, strict=True)]
        states.append(type(like)(*fields) if fields else like)
    model.hidden(torch.zeros(len(logits), 1, dtype=torch.int64, device=logits.device), states, windows=windows)
    return Context(states, logits, about.tokens, about.window, _last(about, len(logits)))


def _last(about: About, rows: int) -> tuple[tuple[int, ...], ...]:
    """The last ids of each row; older files do not have them. Raises ValueError."""
    if about.last and len(about.last) != rows:
        raise ValueError(f"the last ids of {len(about.last)} rows instead of {rows}")
    return tuple(map(tuple, about.last))


def _fitting(name: str, tensors: Mapping[str, Tensor], shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor of this shape, in which -1 stands for any size but 0, and type. Raises ValueError or KeyError."""
    tensor = tensors[name]
    fits = tensor.dim() == len(shape) and all(
        has == size or size < 0 < has for has, size in zip(tensor.shape, shape, strict=True)
    )
    if not fits or tensor.dtype != dtype:
        raise ValueError(f"{name} is {tensor.dtype} {list(tensor.shape)} instead of {dtype} {list(shape)}")
    if tensor.is_floating_point() and tensor.isnan().any():
        raise ValueError(f"{name} holds a NaN")
    if not tensor.is_floating_point() and not ((tensor >= -1) & (tensor < _MOST)).all():
        raise ValueError(f"{name} holds a number that is no count of tokens")
    return tensor


def _fields(state: State) -> tuple[str, ...]:
    return getattr(state, "_fields", ())  # a block that carries nothing has a plain ()


def _read(path: Path) -> tuple[About, dict[str, Tensor]]:
    if not path.is_file():
        raise UserError(f"{path} is not a file; --save-state writes one")
    try:
        with safe_open(path, "pt") as file:
            about = parse_json((file.metadata() or {}).get(_KEY, "null").encode())
            if not isinstance(about, dict):
                raise UserError(f"{path} is no saved state; --save-state writes one")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except UserError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no saved state, or a damaged one: {error}") from error
    if about.get("version") != _VERSION:
        raise UserError(f"{path}: states of version {about.get('version')} are not known here, only {_VERSION}")
    if any(tensor.dtype not in _KINDS for tensor in tensors.values()):
        raise UserError(f"{path} is no saved state: its tensors are of types that no state has")
    if about.pop("hash", None) != _hash(about, tensors):
        raise UserError(f"{path} is damaged: its contents do not match their hash; save the state again")
    try:
        return About.model_validate(about), tensors
    except ValidationError as error:
        raise UserError(f"{path} is no saved state: {first_error(error)}; save the state again") from error


def _hash(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
