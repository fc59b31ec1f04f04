"""A context in a file: read a long document once, ask it many times.

One safetensors file: the logits, and `<entry>.<field>` for every tensor of every state. Its metadata say which model
read the tokens (a hash of its layers and weights), and hold a hash of all the rest of the file.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hybridkit.block import State
from hybridkit.decode import Context
from hybridkit.errors import UserError
from hybridkit.model import Model
from hybridkit.train.files import write_whole

_KEY, _VERSION = "hybridkit context", 1


def save_context(context: Context, model: Model, path: Path) -> None:
    """Write a context that `model` has read. Raises OSError, and then leaves `path` as it was."""
    tensors = {"logits": context.logits}
    for entry, state in enumerate(context.states):
        tensors |= {f"{entry}.{field}": tensor for field, tensor in zip(_fields(state), state, strict=True)}
    tensors = {name: tensor.cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    about = {"version": _VERSION, "model": fingerprint(model), "tokens": context.tokens, "window": context.window}
    about["last"] = context.last
    write_whole(path, save(tensors, {_KEY: json.dumps(about | {"hash": _hash(about, tensors)})}))


def load_context(path: Path, model: Model) -> Context:
    """The context in a file. Raises UserError for a file that holds none, is damaged, or is another model's."""
    about, tensors = _read(path)
    if about["model"] != fingerprint(model):
        raise UserError(f"{path} is the state of another model: layers or weights differ from this one's")
    device = model.head.weight.device
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    return Context(_states(model, tensors), tensors["logits"], about["tokens"], about["window"], _last(about, path))


def _last(about: Mapping[str, Any], path: Path) -> tuple[tuple[int, ...], ...]:
    """The last ids of each row; older files do not have them. Raises UserError for what are no ids."""
    rows = about.get("last", [])
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise UserError(f"{path} is no saved state: its last ids are not lists")
    if not all(type(token) is int and 0 <= token < 2**32 for row in rows for token in row):
        raise UserError(f"{path} is no saved state: its last ids are not whole numbers from 0 on")
    return tuple(map(tuple, rows))


def fingerprint(model: Model) -> str:
    """A hash of everything that decides what a model computes: its layers, sizes and weights."""
    plan = model.plan
    layers = {"entries": [str(entry.block) for entry in plan.entries], "dims": str(plan.dims), "cap": plan.logit_cap}
    return _hash(layers, {name: tensor.cpu() for name, tensor in model.state_dict().items()})


def _states(model: Model, tensors: Mapping[str, Tensor]) -> list[State]:
    states = []
    for index, entry in enumerate(model.plan.entries):
        like = entry.block.init_state(model.plan.dims, batch=1, tokens=0, device="meta")
        fields = [tensors[f"{index}.{field}"] for field in _fields(like)]
        states.append(type(like)(*fields) if fields else like)
    return states


def _fields(state: State) -> tuple[str, ...]:
    return getattr(state, "_fields", ())  # a block that carries nothing has a plain ()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise UserError(f"{path} is not a file; --save-state writes one")
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get(_KEY, "null"))
            if not isinstance(about, dict):
                raise UserError(f"{path} is no saved state; --save-state writes one")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no saved state, or a damaged one: {error}") from error
    if about.get("version") != _VERSION:
        raise UserError(f"{path}: states of version {about.get('version')} are not known here, only {_VERSION}")
    if about.pop("hash", None) != _hash(about, tensors):
        raise UserError(f"{path} is damaged: its contents do not match their hash; save the state again")
    return about, tensors


def _hash(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
