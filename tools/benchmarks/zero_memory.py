"""Measured memory of weights, gradients and optimizer on each rank, and the estimate of `flops --ranks 2`.

    OMP_NUM_THREADS=1 python tools/benchmarks/zero_memory.py [RANKS]

Measured are the storages of all tensors that Python's garbage collector finds after a backward pass and after the
optimizer's step; batch and activations have been freed by then. Rank 0 prints.
"""

import argparse
import gc
import os
import subprocess
import sys
import warnings
from typing import Any

import torch

from hybridkit.cost.memory import Training, persistent_memory
from hybridkit.data.batches import Batch
from hybridkit.model.config import ModelConfig
from hybridkit.model.plan import Plan, compile_pattern
from hybridkit.recipe.schema import Train
from hybridkit.training.engine import open_engine
from hybridkit.training.ranks import free_port

PLAN: Plan = compile_pattern("[swa:128, mlstm]*4", ModelConfig(width=256, heads=4, vocab=4096))
MIB = 2**20
TENSORS = (torch.Tensor, torch.nn.Parameter)


def alive() -> int:
    """Bytes of the storages of all tensors that exist."""
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some objects of the collector warn when they are inspected
        tensors = [found for found in gc.get_objects() if type(found) in TENSORS and found.device.type == "cpu"]
        tensors += [t.grad for t in tensors if t.is_leaf and t.grad is not None]
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


def measure(stage: int) -> tuple[int, int]:
    """Bytes on this rank: before the step, with gradients, and after it."""
    zero: dict[str, Any] = {"stage3_param_persistence_threshold": 0, "reduce_bucket_size": 1 << 18}
    engine = open_engine(
        PLAN, Train(engine="deepspeed", zero=stage, deepspeed={"zero_optimization": zero}, device="cpu")
    )
    tokens = torch.zeros(1, 64, dtype=torch.int64)
    for _ in range(2):
        engine.gradients([Batch(tokens, tokens, None, 0)], PLAN.fixed_windows(None), 64 * engine.ranks)
        before = alive()
        engine.update(1e-3)
    return before, alive()


def main() -> None:
    """As the parent: start the ranks of each stage. As a rank: measure one stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("number", nargs="?", type=int, default=2, help="ranks; in a rank: the ZeRO stage")
    number = parser.parse_args().number
    if "RANK" not in os.environ:
        ranks = number
        print(f"{'stage':<7}{'estimate':>10}{'with gradients':>16}{'after the step':>16}   MiB a rank, {ranks} ranks")
        for stage in range(4):
            shared = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
            envs = [os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
            processes = [subprocess.Popen([sys.executable, __file__, str(stage)], env=env) for env in envs]
            if any([process.wait() for process in processes]):
                sys.exit(1)
        return
    stage, ranks = number, int(os.environ["WORLD_SIZE"])
    before, after = measure(stage)
    if os.environ["RANK"] == "0":
        estimate = persistent_memory(PLAN, Training(ranks=ranks)).on_rank(stage, ranks)
        print(f"{stage:<7}{estimate / MIB:>10.1f}{before / MIB:>16.1f}{after / MIB:>16.1f}", flush=True)


if __name__ == "__main__":
    main()
