"""The manifest of a checkpoint: what it holds, and the hash that every file of it must have.

A checkpoint is the folder `step-N` with a manifest that its files agree with; without one it does not exist. The
hashes show damage, not who wrote it: no file of a checkpoint is executed, and every name lies inside the folder.
"""

import hashlib
import json
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from hybridkit.system.pydantic_errors import first_error
from hybridkit.system.strict_json import parse_json

NAME = "manifest.json"
CHECKPOINTS = "checkpoints"  # the folder of a run that holds them
SEAL = "sha256"  # the manifest's own hash, among its keys
WEIGHTS = "model.safetensors"
AVERAGE = "ema.safetensors"  # the running mean of the weights, where there is one
STATE = "state.json"
MAX_JSON = 2**20  # bytes of a manifest or of any other JSON file of a checkpoint
MAX_FILES = 4096
MAX_ENTRIES = 256
ENGINE_KEYS = ("zero",)  # entries of engines that have a key of their own
MAX_RANKS, MAX_THREADS = 1 << 20, 1 << 16  # more than any machine has
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", re.ASCII)


class Invalid(ValueError):
    """A checkpoint that must not be read, and why."""


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _inside(name: str) -> str:
    if len(name) > 255 or not all(_PART.fullmatch(part) for part in name.split("/")):
        raise ValueError(f"{name[:80]!r} is not the name of a file inside the checkpoint")
    return name


Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # SHA-256


class Stamp(BaseModel):
    """The size and SHA-256 of a file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    bytes: int = Field(ge=0)
    sha256: Digest


class Manifest(BaseModel):
    """What a checkpoint holds and how it was made; in the file a hash of it all follows."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[1] = 1
    step: int = Field(ge=0, lt=10**18)  # updates done
    engine: str
    optimizer: str = Field(default="adamw", max_length=255)  # whose state it holds; older manifests do not say it
    zero: int = Field(default=0, ge=0, le=3)  # stage of ZeRO
    entries: dict[str, int | float | str | bool | None] = Field(default={}, max_length=MAX_ENTRIES)  # of the engine
    ranks: int = Field(ge=1, le=MAX_RANKS)
    threads: int = Field(ge=1, le=MAX_THREADS)
    device: str | None = Field(default=None, max_length=64)  # its type; None: not recorded
    precision: str | None = Field(default=None, max_length=64)  # that was used; None: not recorded
    versions: dict[str, str]
    data: str  # digest of what was trained on
    tokenizer: str | None = Field(default=None, max_length=64)  # SHA-256 of its file, or `bytes`; None: not recorded
    code: dict[Annotated[str, AfterValidator(_inside)], Digest] | None = Field(default=None, max_length=MAX_FILES)
    # SHA-256 of the plug-ins' files as the run keeps them in plugins/; None: not recorded
    model: str  # its pattern and sizes
    recipe: dict[str, JsonValue] | None = Field(default=None, max_length=MAX_ENTRIES)
    # what the weights depend on in the recipe, by dotted key (`recipe.record`); None: not recorded
    files: dict[Annotated[str, AfterValidator(_inside)], Stamp] = Field(max_length=MAX_FILES)


def sealed(manifest: Manifest) -> bytes:
    """The manifest as the text of its file."""
    content = manifest.model_dump()
    return json.dumps({**content, SEAL: _hash(content)}, indent=1).encode()


def stamp(path: Path) -> Stamp:
    """Size and hash of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Stamp(bytes=file.tell(), sha256=digest)


def read_json(path: Path) -> Any:
    """The content of a small JSON file. Raises Invalid for one that is missing, a link, too large or no JSON."""
    _plain(path, at_most=MAX_JSON)
    try:
        return parse_json(path.read_bytes())
    except ValueError as error:
        raise Invalid(f"{path.name} is not JSON: {str(error)[:200]}") from error


def read_manifest(folder: Path) -> Manifest:
    """The manifest of `folder`; the files are not looked at. In a run, the folder's name must say the same step.

    Raises Invalid.
    """
    if folder.is_symlink():
        raise Invalid("the folder is a symbolic link")
    content = read_json(folder / NAME)
    if not isinstance(content, dict) or content.pop(SEAL, None) != _hash(content):
        raise Invalid(f"{NAME} is damaged: its content does not have the hash that it records")
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        raise Invalid(f"{NAME}: {first_error(error)}") from error
    if folder.parent.name == CHECKPOINTS and folder.name != f"step-{manifest.step}":
        raise Invalid(f"{NAME} names step {manifest.step}, and the folder is {folder.name}")
    return manifest


def check_files(folder: Path, manifest: Manifest, names: Iterable[str]) -> None:
    """Raises Invalid unless the manifest vouches for each of `names` and the file agrees; sizes come first."""
    wanted = {name: manifest.files.get(name) for name in names}
    for name, claimed in wanted.items():
        if claimed is None:
            raise Invalid(f"{NAME} does not list {name}")
        _plain(folder / name, at_least=claimed.bytes, at_most=claimed.bytes, root=folder)
    for name, claimed in wanted.items():
        if stamp(folder / name) != claimed:
            raise Invalid(f"{name} is damaged: its hash is not the manifest's")


def _plain(path: Path, *, at_most: int, at_least: int = 0, root: Path | None = None) -> None:
    """Raises Invalid unless `path` is a regular file of such a size, with no symbolic link on the way from `root`."""
    for parent in path.parents:
        if root is None or parent == root:
            break
        if parent.is_symlink():
            raise Invalid(f"{parent.name} is a symbolic link")
    try:
        status = path.lstat()
    except OSError as error:
        raise Invalid(f"{path.name}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise Invalid(f"{path.name} is not a regular file")
    if not at_least <= status.st_size <= at_most:
        limit = f"{at_most:,}" if at_least else f"at most {at_most:,}"
        raise Invalid(f"{path.name} has {status.st_size:,} bytes instead of {limit}")
