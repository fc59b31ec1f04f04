"""From one command to the ranks of a run: started here, or by another launcher, which sets the environment.

Torchrun and DeepSpeed's launcher set RANK, WORLD_SIZE and LOCAL_RANK; SLURM's variables are translated. Nothing here
imports torch, so that mistakes are told before anything starts.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hybridkit.recipe.choices import ENGINE, NEEDS_ENGINE
from hybridkit.recipe.schema import Recipe, Train
from hybridkit.registry.registry import REGISTRY, Registry
from hybridkit.system.errors import Failure, Interrupted, UserError
from hybridkit.training.engine import EngineSpec, engine_of
from hybridkit.training.ranks import REPORT, Place, place, settle

_HOST = re.compile(r"(\S+)\s+slots=([1-9][0-9]*)")


def begin(recipe: Recipe, ranks: int | None, hostfile: Path | None, registry: Registry = REGISTRY) -> None:
    """Return in a process that trains as a rank. A process that starts the ranks ends here, with their exit code.

    Raises UserError, before any process starts, for what cannot run.
    """
    given = place(os.environ)
    hosts = read_hostfile(hostfile) if hostfile else None
    if given and ranks and given.ranks != ranks:
        raise UserError(f"--ranks {ranks}: this process was started as one of {given.ranks}; leave --ranks out")
    count = given.ranks if given else ranks or (sum(hosts.values()) if hosts else 1)
    check_launch(recipe, count, registry)
    if given:
        settle(given)
    elif count == 1:
        return  # an engine that needs more of the environment sets it
    elif hostfile:
        engine_of(recipe.train, registry).launch(hostfile)
    else:
        from hybridkit.training.launch.spawn import spawn

        sys.exit(spawn(count))


@contextmanager
def as_rank() -> Iterator[int]:
    """In this context errors name the rank that they come from. Gives the rank of this process.

    A signal reaches all ranks, and rank 0 speaks for them.
    """
    rank, ranks = place(os.environ) or Place(0, 1)
    try:
        yield rank
    except Interrupted as stopped:
        if rank:
            sys.exit(stopped.code)
        raise
    except Exception as error:
        if REPORT in os.environ and isinstance(error, UserError | Failure):
            os.write(int(os.environ[REPORT]), json.dumps(str(error)).encode() + b"\n")
            sys.exit(2 if isinstance(error, UserError) else 1)
        if ranks > 1:
            error.add_note(f"(rank {rank} of {ranks})")
        raise


def check_launch(recipe: Recipe, ranks: int, registry: Registry = REGISTRY) -> None:
    """Whether a recipe can be trained by so many ranks. Raises UserError."""
    train = recipe.train
    engine = engine_of(train, registry)
    if ranks > 1 and not engine.many_ranks:
        able = [name for name in registry.names(ENGINE) if registry.get(ENGINE, name).many_ranks]
        raise UserError(
            f"{ranks} ranks: train.engine: {train.engine} is one process; set train.engine={' or '.join(able)}"
        )
    _refuse_ignored(train, type(engine), registry)
    engine.check(recipe, ranks)


def _refuse_ignored(train: Train, engine: type[EngineSpec], registry: Registry) -> None:
    """Raises UserError for a field of another engine that changes what is computed."""
    for name in registry.names(ENGINE):
        for field, info in registry.get(ENGINE, name).model_fields.items():
            if info.json_schema_extra == NEEDS_ENGINE and hasattr(train, field) and field not in engine.model_fields:
                raise UserError(f"train.{field}: {getattr(train, field)} takes effect only under train.engine={name}")


def read_hostfile(path: Path) -> dict[str, int]:
    """Ranks by host, from lines such as `node-1 slots=8`. Raises UserError."""
    if not path.is_file():
        raise UserError(f"--hostfile {path}: no such file; it holds lines such as: node-1 slots=8")
    hosts: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        text = line.split("#")[0].strip()
        found = _HOST.fullmatch(text)
        if text and (not found or found[1] in hosts):
            raise UserError(f"{path}:{number}: a line names a host once, such as: node-1 slots=8; not {text[:60]!r}")
        if found:
            hosts[found[1]] = int(found[2])
    if not hosts:
        raise UserError(f"{path}: no host in it; it holds lines such as: node-1 slots=8")
    return hosts
