"""From one command to the ranks of a run: started here, or found in the environment of another launcher.

Torchrun and DeepSpeed's launcher say RANK, WORLD_SIZE and LOCAL_RANK; SLURM says the same in words of its own, which
are translated. Nothing here imports torch, so that what cannot run is refused before anything starts.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hybridkit.recipe.schema import Recipe
from hybridkit.system.errors import Failure, Interrupted, MissingExtra, UserError
from hybridkit.training.engines.deepspeed.config import check as check_deepspeed
from hybridkit.training.ranks import REPORT, Place, place, settle

_HOST = re.compile(r"(\S+)\s+slots=([1-9][0-9]*)")


def begin(recipe: Recipe, ranks: int | None, hostfile: Path | None) -> None:
    """Return in a process that is to train as one rank; one that starts others ends with their exit code instead.

    Raises UserError, before any process starts, for what cannot run.
    """
    given = place(os.environ)
    hosts = read_hostfile(hostfile) if hostfile else None
    if given and ranks and given.ranks != ranks:
        raise UserError(f"--ranks {ranks}: this process was started as one of {given.ranks}; leave --ranks out")
    count = given.ranks if given else ranks or (sum(hosts.values()) if hosts else 1)
    check(recipe, count)
    if given or count == 1:
        settle(given or Place(0, 1))
    elif hostfile:
        _deepspeed(hostfile)
    else:
        from hybridkit.training.launch.spawn import spawn

        sys.exit(spawn(count))


@contextmanager
def as_rank() -> Iterator[int]:
    """Within, errors say which rank they come from; the number of this one.

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


def check(recipe: Recipe, ranks: int) -> None:
    """Whether a recipe can be trained by so many ranks. Raises UserError."""
    train = recipe.train
    if train.engine != "deepspeed":
        if ranks > 1:
            raise UserError(f"{ranks} ranks: train.engine: {train.engine} is one process; set train.engine=deepspeed")
        if train.sequence_parallel > 1:
            raise UserError(
                f"train.sequence_parallel: {train.sequence_parallel} ranks share a sequence only under"
                " train.engine=deepspeed"
            )
        return
    check_deepspeed(train)
    if ranks % train.sequence_parallel:
        raise UserError(f"train.sequence_parallel: {train.sequence_parallel} does not divide {ranks} ranks")
    data_parallel_size, rows = ranks // train.sequence_parallel, train.batch_tokens // recipe.data.sequence
    if data_parallel_size > rows:
        raise UserError(
            f"{ranks} ranks cannot share a batch of {rows} sequences (train.batch_tokens / data.sequence): use at most"
            f" {rows * train.sequence_parallel} ranks, or a larger train.batch_tokens"
        )


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


def _deepspeed(hostfile: Path) -> None:
    """Become DeepSpeed's launcher, which starts this command on every host."""
    program = shutil.which("deepspeed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        raise MissingExtra("deepspeed", "deepspeed")
    own = ["--no_local_rank", "--module", "hybridkit.cli", *sys.argv[1:]]
    os.execv(program, [program, "--hostfile", str(hostfile), *own])
