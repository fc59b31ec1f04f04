"""The files of a checkpoint: JSON, and safetensors in one file or in shards, read without trusting them.

Nothing is executed, and every shard that an index names lies in the folder itself.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hybridkit.runs.weights import TYPES
from hybridkit.system.errors import UserError
from hybridkit.system.files import FILES
from hybridkit.system.strict_json import unique

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_JSON = 1 << 26  # bytes of a config.json or index; an index names some 100,000 tensors
SHARD = 5 * 10**9  # bytes of a file of weights
MAX_SHARDS = 4096
MAX_NAME = 200  # characters of the name of a shard
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
BYTES = {"U8": torch.uint8}  # as TYPES, of packed weights


def write_json(path: Path, content: Any) -> None:
    """A JSON file as people read it."""
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor in another type. Raises UserError where a finite number in it has no finite one there."""
    made = tensor.to(dtype)
    if made.dtype != tensor.dtype and not (made.isfinite() | ~tensor.isfinite()).all():
        largest, most = tensor[tensor.isfinite()].abs().max(), torch.finfo(dtype).max
        raise UserError(
            f"--dtype: {name} holds {largest:g}, and {str(dtype).removeprefix('torch.')} ends at {most:g}; take a wider"
            " type, such as bf16"
        )
    return made


def write_weights(folder: Path, tensors: Iterable[tuple[str, Tensor]], limit: int = SHARD) -> None:
    """model.safetensors, or where that were larger than `limit` bytes shards and an index. Raises OSError."""
    shards: list[dict[str, Tensor]] = [{}]
    held = total = 0
    for name, tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if shards[-1] and held + size > limit:
            shards, held = [*shards, {}], 0
        shards[-1][name] = tensor.contiguous().clone() if tensor.data_ptr() % 8 else tensor.contiguous()
        held, total = held + size, total + size
    names = [f"model-{n:05}-of-{len(shards):05}.safetensors" for n in range(1, len(shards) + 1)]
    names = names if len(shards) > 1 else [WEIGHTS]
    for name, shard in zip(names, shards, strict=True):
        FILES.tensors(folder / name, shard)
    if len(shards) > 1:
        places = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))})


def check_links(folder: Path) -> None:
    """Raises UserError for a link that leads out of the folder: an import would copy a file that is not in it.

    The links of the Hub's cache lead from `snapshots/COMMIT` to `blobs` beside it.
    """
    root = folder.resolve()
    root = root.parent.parent if root.parent.name == "snapshots" else root
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors") and not Path(os.path.realpath(path)).is_relative_to(root):
            raise UserError(f"{path} is a link that leads out of the folder; put the file itself there")


def read_foreign_json(path: Path) -> Any:
    """A JSON file of a stranger; infinity as transformers writes it is read. Raises UserError."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with path.open("rb") as file:
        raw = file.read(MAX_JSON + 1)
    if len(raw) > MAX_JSON:
        raise UserError(f"{path}: it has more than {MAX_JSON >> 20} MiB")
    try:
        return json.loads(raw.decode(), object_pairs_hook=_object, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {str(error)[:200]}") from error


def _object(pairs: Sequence[tuple[str, Any]]) -> Any:
    said = unique(pairs)
    tag = said.get("__float__")
    return float(tag) if len(said) == 1 and tag in ("Infinity", "-Infinity") else said


def _constant(name: str) -> float:
    if name == "NaN":
        raise ValueError("NaN is not a number in JSON")
    return math.inf if name == "Infinity" else -math.inf


class Shards:
    """The tensors of a folder by name; one is read when it is asked for. A context: files are closed at its end."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._files = folder, ExitStack()
        self._where: dict[str, Any] = {}
        for name in _shard_names(folder):
            self._open(folder / name)
        if (folder / INDEX).exists() and not (folder / WEIGHTS).exists():
            self._check_index()

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def like(self, name: str, packed: bool = False) -> Tensor:
        """A tensor of this shape and type without data. Raises UserError for a type that is no float, or no byte."""
        view = self._where[name].get_slice(name)
        types = BYTES if packed else TYPES
        if view.get_dtype() not in types:
            why = "bytes (U8)" if packed else "a float type: quantized weights are not read"
            raise UserError(f"{self._folder}: {name} is of type {view.get_dtype()}, not {why}")
        return torch.empty(view.get_shape(), dtype=types[view.get_dtype()], device="meta")

    def read(self, name: str) -> Tensor:
        """A tensor. Raises UserError where a number in it is not finite, or the file is damaged."""
        try:
            tensor: Tensor = self._where[name].get_tensor(name)
        except SafetensorError as error:
            raise UserError(f"{self._folder}: {name} cannot be read: {error}") from error
        if not torch.isfinite(tensor).all():
            raise UserError(f"{self._folder}: {name} holds numbers that are not finite (NaN or infinite)")
        return tensor

    def _open(self, path: Path) -> None:
        try:
            file = self._files.enter_context(safe_open(path, framework="pt"))
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: not a safetensors file that can be read: {str(error)[:200]}") from error
        for name in file.keys():  # noqa: SIM118  # not a mapping
            if name in self._where:
                raise UserError(f"{path}: {name} stands in two files")
            self._where[name] = file

    def _check_index(self) -> None:
        listed = set(_weight_map(self._folder))
        for name in sorted(listed ^ set(self._where)):
            said = "is listed, and no file holds it" if name in listed else "is in a file, and not listed"
            raise UserError(f"{self._folder / INDEX}: {name} {said}")


def _shard_names(folder: Path) -> list[str]:
    """The files of weights. Raises UserError for a folder without any, and for an index that points elsewhere."""
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if (folder / INDEX).is_file():
        names = sorted(set(_weight_map(folder).values()))
        if len(names) > MAX_SHARDS:
            raise UserError(f"{folder / INDEX}: it names more than {MAX_SHARDS} files")
        for name in names:
            plain = Path(name).name == name and len(name) <= MAX_NAME and not name.startswith(".")
            if not plain or not name.endswith(".safetensors"):
                raise UserError(f"{folder / INDEX}: {name[:80]!r} is not the name of a safetensors file in the folder")
            if not (folder / name).is_file():
                raise UserError(f"{folder / INDEX}: {name} is not there; download it again")
        return names
    for pattern in PICKLES:
        for path in sorted(folder.glob(pattern)):
            raise UserError(
                f"{path}: a pickle, which can run code when it is read, so it is not read: take the repository's"
                " safetensors, or convert it where that does no harm, with transformers:"
                " AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW)"
            )
    raise UserError(f"{folder}: no {WEIGHTS} and no {INDEX} in it")


def _weight_map(folder: Path) -> dict[str, str]:
    said = read_foreign_json(folder / INDEX)
    found = said.get("weight_map") if isinstance(said, dict) else None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise UserError(f"{folder / INDEX}: no weight_map of names to files in it")
    return found
