"""What ranks do in the tests: `forked(RANKS, PORT, OUT)` is two of them, each with the environment of a launcher.

They train with every stage; rank 0 writes what was found as JSON.
"""

import importlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hybridkit.block import TrainStep
from hybridkit.convert.objectives import Distil, Hidden, Teacher
from hybridkit.data.batches import IGNORED, Batch
from hybridkit.model.config import ModelConfig
from hybridkit.model.plan import Plan, compile_pattern
from hybridkit.recipe.schema import Train
from hybridkit.training.engine import Engine, open_engine
from hybridkit.training.engines.local.engine import initial_model
from hybridkit.training.freeze import frozen
from hybridkit.training.micro_batches import micro_batches, num_targets
from hybridkit.training.schedule import learning_rate

RANKS = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import ranks; ranks.start()"
LATE = ("deepspeed", "torch._inductor.compile_fx")  # what the engine imports late: seconds, which are spent once
STEPS = 8
FEW = 6  # steps of what needs no more
LENGTHS = (40, 33)  # tokens, of which two ranks cannot share one number evenly
PART = 2  # steps before a checkpoint, and after
SHARED_OUT: dict[str, Any] = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}  # small weights, too
PLAN = compile_pattern("[swa:stoch(4,16,p=.5) | mlstm]", ModelConfig(width=32, heads=4, vocab=257))
MIXERS = compile_pattern(
    "[swa(kv_heads=2,sinks=true,qk_norm=projection):stoch(4,16,p=.5) | mlstm, sa(gate=true,bias=true), "
    "conv(bias=true), gdn(key_heads=2), kda, mamba2(state=4) | mamba2(heads=8,state=4,groups=4,bias=true,x_scale=.5), "
    "rglru(conv=3), mla(q_rank=8) | mla(theta=null)]",
    ModelConfig(width=32, heads=4, vocab=257, ffn=None),
)
TEACHER = compile_pattern("sa", ModelConfig(width=32, heads=4, vocab=257))
TIED = compile_pattern(
    "[swa:stoch(4,16,p=.5), moe(4,2,24,aux=.1,correction=.01)]", ModelConfig(width=32, heads=4, vocab=257, tie=True)
)


def batch(step: int) -> Batch:
    """Three rows, which two ranks cannot share evenly; targets are missing here and there, of one row all."""
    draw = torch.Generator().manual_seed(step)
    ids = torch.randint(257, (3, 41), generator=draw)
    targets = ids[:, 1:].masked_fill(torch.rand(3, 40, generator=draw) < 0.3, IGNORED)
    targets[step % 3, 5:] = IGNORED
    return Batch(ids[:, :-1], targets, torch.rand(3, 40, generator=draw) < 0.1, 0)


def settings(engine: str = "deepspeed", **changes: Any) -> Train:
    given = {"engine": engine, "steps": STEPS, "lr": 3e-3, "min_lr": 3e-4, "precision": "fp32", "device": "cpu"}
    return Train(**given | ({"deepspeed": SHARED_OUT} if engine == "deepspeed" else {}) | changes)


def losses(engine: Engine, plan: Plan, train: Train, steps: Sequence[int]) -> list[float]:
    """The loss of every step, each followed by an update."""
    found = []
    for step in steps:
        rows, windows = batch(step), plan.windows(TrainStep(train.seed, step, STEPS))
        shares = micro_batches(rows, 1, engine.data_parallel_rank, engine.data_parallel_size)
        found.append(engine.gradients(shares, windows, num_targets(rows)).nats / num_targets(rows))
        engine.update(learning_rate(step, train))
    return found


def norm_and_validation(engine: Engine, plan: Plan) -> list[float]:
    """A gradient that is dropped again, and a loss without one: nothing of either may stay behind."""
    rows, windows = batch(999), plan.windows(TrainStep(0, 0, 1, training=False))
    nothing = replace(rows, targets=torch.full_like(rows.targets, IGNORED))
    empty = engine.gradients(
        micro_batches(nothing, 2, engine.data_parallel_rank, engine.data_parallel_size), windows, num_targets(nothing)
    )
    engine.zero_grad()
    shares = micro_batches(rows, 2, engine.data_parallel_rank, engine.data_parallel_size)
    norm = engine.gradients(shares, windows, num_targets(rows)).norm
    engine.zero_grad()
    return [norm, engine.evaluate(shares, windows), empty.nats, empty.norm]


def trained(train: Train, steps: int = STEPS) -> dict[str, Any]:
    engine = open_engine(PLAN, train)
    early = losses(engine, PLAN, train, range(4))
    aside = norm_and_validation(engine, PLAN)
    return {"losses": early + losses(engine, PLAN, train, range(4, steps)), "aside": aside}


def write(engine: Engine, folder: Path) -> None:
    """A checkpoint, which all ranks can read then."""
    if engine.rank == 0:
        folder.mkdir(parents=True)
    engine.all_reduce_max(0)
    engine.save().write(folder)
    engine.all_reduce_max(0)


def muon(folder: Path) -> dict[str, list[float]]:
    """Losses with Muon on stage 0, and the local engine's from a checkpoint half-way on."""
    train, local = settings(zero=0, optimizer="muon"), settings("local", optimizer="muon")
    engine, half = open_engine(PLAN, train), FEW // 2
    found = losses(engine, PLAN, train, range(half))
    write(engine, folder)
    found += losses(engine, PLAN, train, range(half, FEW))
    alone = open_engine(PLAN, local)
    alone.load(folder)
    return {"ranks": found, "resumed": losses(alone, PLAN, local, range(half, FEW))}


def averaged(train: Train, folder: Path | None = None, then: Train | None = None) -> dict[str, Any]:
    """Losses of the mean of the weights beside the weights' own, some of which are frozen for half of the steps.

    With `folder` the second half goes on from a checkpoint, under the settings `then`.
    """
    engine, found = open_engine(PLAN, train), []
    for half in (range(FEW // 2), range(FEW // 2, FEW)):
        if train.freeze:
            engine.freeze(frozen(PLAN, train.freeze, half.start, FEW))
        found += losses(engine, PLAN, train, half)
        if folder and half.start == 0:
            write(engine, folder)
            engine = open_engine(PLAN, then or train)
            engine.load(folder)
    shares = micro_batches(batch(999), 2, engine.data_parallel_rank, engine.data_parallel_size)
    windows = PLAN.windows(TrainStep(0, 0, 1, training=False))
    before = engine.evaluate(shares, windows)
    with engine.averaged():
        mean = engine.evaluate(shares, windows)
    assert engine.evaluate(shares, windows) == before != mean
    return {"losses": found, "mean": mean}


def handed_on(folder: Path, stages: Sequence[int]) -> dict[str, Any]:
    """A checkpoint of every stage with tied weights, gone on from by the next stage and by the local engine."""
    found: dict[str, Any] = {}
    first, then = range(PART), range(PART, 2 * PART)
    for stage in stages:
        train = settings(zero=stage)
        engine = open_engine(TIED, train)
        losses(engine, TIED, train, first)
        write(engine, folder / str(stage))
        expected = losses(engine, TIED, train, then)
        engine.load(folder / str(stage))  # a rollback
        found[str(stage)] = {"expected": expected, "again": losses(engine, TIED, train, then)}
    for stage in stages:
        train = settings(zero=stage)
        engine = open_engine(TIED, train)
        before = str((stage - 1) % len(stages))
        engine.load(folder / before)
        found[before]["at the next stage"] = losses(engine, TIED, train, then)
    local = settings("local")
    for other in stages:
        engine = open_engine(TIED, local)
        engine.load(folder / str(other))
        found[str(other)]["local"] = losses(engine, TIED, local, then)
    return found


def in_stretches(train: Train, tokens: int) -> dict[str, Any]:
    """Losses of a few steps over sequences of so many tokens, and the first step's gradient, parameter by parameter."""
    engine = open_engine(MIXERS, train)
    cut = [getattr(batch(0), name)[:, :tokens] for name in ("tokens", "targets", "document_starts")]
    rows, windows = Batch(*cut, 0), MIXERS.windows(TrainStep(0, 0, STEPS))
    nats = []
    for step in range(3):
        found = engine.gradients(
            micro_batches(rows, 3, engine.data_parallel_rank, engine.data_parallel_size), windows, num_targets(rows)
        )
        nats.append(found.nats)
        if step == 0:
            gradient = {name: p.grad.flatten().tolist() for name, p in engine.model.named_parameters()}
        engine.update(1e-3)
    return {"nats": nats, "gradient": gradient}


def taught(train: Train, loss: str) -> list[float]:
    """Losses of a few steps against a teacher: of new entries alone, everything else frozen, or of its logits."""
    engine = open_engine(PLAN, train)
    teacher = Teacher(TEACHER, "", lambda: initial_model(TEACHER, 7))
    objective = (
        Hidden(loss, teacher, (), [0]) if loss == "hidden" else Distil(loss, teacher, (), {"kl": 0.7, "ce": 0.3}, 9)
    )
    objective.begin(engine.model)
    engine.minimize(objective)
    engine.freeze(frozenset({"embedding.", "norm.", "head.", "layers.1."} if loss == "hidden" else ()))
    return losses(engine, PLAN, train, range(PART))


def start() -> None:
    """Become rank 0, and let a child become rank 1. The exit code is not 0 where either has failed."""
    port, out = sys.argv[1:]
    for module in LATE:
        importlib.import_module(module)
    child = os.fork()
    rank = "0" if child else "1"
    os.environ |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": rank, "LOCAL_RANK": rank}
    compute(Path(out))
    if child and os.waitpid(child, 0)[1]:
        raise SystemExit("rank 1 failed")


def compute(out: Path) -> None:
    """All that is to be found with two ranks."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {f"zero {stage}": trained(settings(zero=stage)) for stage in range(4)}
    found["bf16"] = trained(settings(zero=2, precision="bf16"), FEW)
    found["offload"] = trained(settings(zero=3, offload="all", recompute=True), FEW)
    shared = settings(zero=0, sequence_parallel=2)
    found["sequence parallel"] = {str(tokens): in_stretches(shared, tokens) for tokens in LENGTHS}
    found["checkpoints"] = handed_on(out.with_suffix(""), range(4))
    found["muon"] = muon(out.with_suffix("") / "muon")
    found["averaged"] = averaged(settings(zero=2, ema=0.8), out.with_suffix("") / "mean")
    freezing: dict[str, Any] = {"ema": 0.8, "freeze": {"mlstm": FEW // 2}}
    of_ranks, alone = settings(zero=0, **freezing), settings("local", **freezing)
    found["frozen"] = averaged(of_ranks, out.with_suffix("") / "frozen")
    own = out.with_suffix("") / f"local-{torch.distributed.get_rank()}"  # every rank is a local engine of its own
    found["frozen alone, then by ranks"] = averaged(alone, own, of_ranks)
    found["taught"] = {str(stage): taught(settings(zero=stage), "kl") for stage in (1, 3)}
    found["taught"]["0"] = taught(settings(zero=0), "hidden")
    if torch.distributed.get_rank() == 0:
        out.write_text(json.dumps(found))
