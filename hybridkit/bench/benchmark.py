"""How fast a recipe runs here, compared with what this machine can do at most: what `hybridkit bench` measures.

B rows, T tokens of a row, D width. The passes are those of other verbs: forward is validation, the training step is
the local engine's, prefill and decode are those of `hybridkit.inference`. Each distinct layer, and the rest around the
stack, is timed alone as well, forward and backward. Weights and tokens are random: speed does not depend on them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hybridkit.block import GivenWindow, window_limit
from hybridkit.cost.flops import TRAINING, CostSettings, cost, forward_flops, head_flops
from hybridkit.cost.memory import Training, activations, device_kind, persistent_memory
from hybridkit.data.batches import IGNORED, Batch
from hybridkit.inference.decode import decode_tokens, prefill
from hybridkit.inference.sampling import Sampling
from hybridkit.model.loading import plan as compile_recipe
from hybridkit.model.plan import Plan
from hybridkit.model.residual import BranchWindows, Residual
from hybridkit.recipe.files import Loaded
from hybridkit.recipe.schema import Train
from hybridkit.runs.plugin_copies import code_of, hashes
from hybridkit.system.choices import Precision
from hybridkit.system.errors import UserError
from hybridkit.system.machine import DTYPES, choose_device, choose_precision, spare_memory
from hybridkit.system.timing import Peak, medians
from hybridkit.training.ceiling import Ceilings, copy_ceiling, largest_weights, matrix_ceiling
from hybridkit.training.compile import compiles, for_graphs
from hybridkit.training.engines.local.engine import LocalEngine, initial_model
from hybridkit.training.micro_batches import automatic_rows, num_targets

BENCH_SCHEMA = 1
DOCUMENT = 1024  # tokens of a document on average, where documents are kept apart
_DECODED = 16  # tokens of a row that are timed together
AMPLE = 4096  # bytes a channel and token, far more than any entry keeps for backward


@dataclass(frozen=True)
class BenchJob:
    """What is measured."""

    name: str
    plan: Plan
    train: Train
    device: torch.device
    precision: Precision
    sequence: int
    batch: int
    window: GivenWindow
    resets: bool

    @property
    def windows(self) -> list[GivenWindow]:
        """The window of every branch."""
        return [window_limit(policy, self.window) for policy in self.plan.policies]

    @property
    def settings(self) -> CostSettings:
        """The settings for its costs."""
        return CostSettings(self.sequence, window=self.window, batch=self.batch, dtype=DTYPES[self.precision])


class StepPart(NamedTuple):
    """A part of the training step: how often it occurs, the FLOPs of one occurrence, and how to run it once."""

    name: str
    kind: str
    times: int
    window: GivenWindow | list[GivenWindow]  # one a branch where there are several
    flops: int
    run: Callable[[], object]


def job(
    name: str,
    loaded: Loaded,
    *,
    sequence: int | None = None,
    batch: int | None = None,
    window: GivenWindow = None,
    precision: str | None = None,
) -> BenchJob:
    """The job of a recipe. What is not given is as in training: a micro-batch of the recipe's sequences.

    Raises UserError for a window where the recipe has none, and for more than memory holds.
    """
    recipe, plan = loaded.recipe, compile_recipe(loaded)
    if window and not plan.has_windows:
        raise UserError(f"--window: {name} has no block with a window; leave it out")
    train = recipe.train.model_copy(update={"precision": precision or recipe.train.precision})
    device = choose_device(train.device)
    chosen = choose_precision(train.precision, device.type)
    tokens = sequence or recipe.data.sequence
    rows = automatic_rows(plan, train, tokens, device, chosen) if train.micro_batch == "auto" else train.micro_batch
    most = max(1, train.batch_tokens // tokens)
    resets = recipe.data.documents == "reset"
    found = BenchJob(name, plan, train, device, chosen, tokens, batch or min(rows, most), window, resets)
    _refuse_too_large(found)
    return found


def run_benchmark(job: BenchJob, repeat: int, told: Callable[[str], object] = lambda what: None) -> dict[str, Any]:
    """All figures as plain data, medians of `repeat` (docs/bench.md says what each means). `told` what is measured."""
    told("this machine's ceilings")
    peak, batch, ceilings = Peak(job.device), _batch(job), _ceilings(job)
    told("prefill and decode")
    inference = _inference(job, batch.tokens, repeat, peak, ceilings)  # first: training leaves more memory behind
    told("forward and the training step")
    engine = LocalEngine(job.plan, job.train)
    training, update = _training(job, engine, batch, repeat, peak, ceilings)
    step = training["training"]["seconds"]
    told("each layer alone")
    parts = _measured(job, _parts(job, engine, batch), update, repeat, step, ceilings)
    passes = training | inference
    ceilings.share(passes, parts)
    return {
        "schema": BENCH_SCHEMA,
        "recipe": job.name,
        "pattern": job.plan.pattern,
        "code": hashes(code_of(job.plan.entries)),
        "parameters": sum(p.numel() for p in engine.model.parameters()),
        "device": job.device.type,
        "precision": job.precision,
        "threads": torch.get_num_threads(),
        "sequence": job.sequence,
        "batch": job.batch,
        "window": job.window,
        "repeat": repeat,
        "peak_bytes_are": peak.meaning,
        "ceilings": ceilings.to_json(),
        "passes": passes,
        "parts": parts,
        "slowest": max(parts, key=lambda part: part["seconds"])["part"],
    }


def _ceilings(job: BenchJob) -> Ceilings:
    tokens = job.batch * job.sequence
    read = int(cost(job.plan, job.settings).decode_bytes)
    matrix = matrix_ceiling(job.device, job.precision, largest_weights(job.plan), tokens)
    return Ceilings(matrix, copy_ceiling(job.device, max(1, read)))


def _refuse_too_large(job: BenchJob) -> None:
    states = persistent_memory(job.plan, Training(job.precision))
    needed = states.weights + states.gradients + states.optimizer
    spare = torch.cuda.mem_get_info(job.device)[0] if job.device.type == "cuda" else spare_memory()
    ample = len(job.plan.entries) * job.batch * job.sequence * (AMPLE * job.plan.dims.width + 4096 * job.sequence)
    if needed < spare <= needed + ample:  # otherwise an estimate, which takes seconds, would make no difference
        one, two = (_activation_bytes(job, rows) for rows in (1, 2))
        needed += one + (job.batch - 1) * (two - one)
    if needed > spare:
        raise UserError(
            f"training {job.batch} x {job.sequence} tokens of {job.name} takes about {needed / 2**30:.1f} GiB, and"
            f" {spare / 2**30:.1f} GiB are free: choose a smaller --batch, --sequence or recipe"
        )


def _activation_bytes(job: BenchJob, rows: int) -> int:
    training = Training(job.precision, rows, resets=job.resets, device=device_kind(job.device))
    return activations(job.plan, training, job.settings).peak(job.train.recompute)


def _batch(job: BenchJob) -> Batch:
    """Random tokens, each the target of the one before; documents begin at random where the recipe keeps them apart."""
    shape, generator = (job.batch, job.sequence), torch.Generator().manual_seed(0)
    tokens = torch.randint(job.plan.dims.vocab, shape, generator=generator).to(job.device)
    document_starts = torch.rand(shape, generator=generator).to(job.device) < 1 / DOCUMENT if job.resets else None
    targets = tokens.roll(-1, 1)
    if document_starts is not None and job.sequence > 1:
        targets = targets.masked_fill(document_starts.roll(-1, 1), IGNORED)
    return Batch(tokens, targets, document_starts, 0)


def _inference(job: BenchJob, tokens: Tensor, repeat: int, peak: Peak, ceilings: Ceilings) -> dict[str, dict[str, Any]]:
    """Prefill of all rows, then decoding from there, by a model of the job's precision without gradients."""
    model = initial_model(job.plan, job.train.seed).to(job.device, DTYPES[job.precision]).requires_grad_(False).eval()
    read = partial(prefill, model, tokens, window=job.window)
    with peak:
        seconds = medians({"prefill": read}, job.device, repeat, ceilings.measure)["prefill"]
    prompt = cost(job.plan, job.settings)
    reading = _figures(seconds, tokens.numel(), job.batch * prompt.prefill, peak)
    decoded = 2 + _DECODED * (repeat + 1)
    stream = decode_tokens(model, read(), Sampling(temperature=0), decoded)
    with peak:
        next(stream), next(stream)  # the first step copies the weights into their layout for decoding
        some = {"decode": lambda: list(islice(stream, _DECODED))}
        taken = medians(some, job.device, repeat, ceilings.measure)
    later = CostSettings(job.sequence + decoded // 2, window=job.window, batch=job.batch, dtype=job.settings.dtype)
    step = cost(job.plan, later)
    decode = _figures(taken["decode"] / _DECODED, job.batch, float(job.batch * step.decode), peak)
    moved = float(step.decode_bytes) * decode["tokens_per_second"]
    return {"prefill": reading, "decode": decode | {"bytes_per_second": moved}}


def _training(
    job: BenchJob, engine: LocalEngine, batch: Batch, repeat: int, peak: Peak, ceilings: Ceilings
) -> tuple[dict[str, dict[str, Any]], float]:
    """The figures of forward and of the training step, and the seconds that clipping and AdamW take of the latter."""
    flops, tokens = job.batch * forward_flops(job.plan, job.sequence, job.windows), batch.tokens.numel()
    with peak:
        seconds = medians(
            {"": lambda: engine.evaluate([batch], job.windows)}, job.device, repeat, ceilings.matrix.measure
        )[""]
    forward = _figures(seconds, tokens, flops, peak)
    steps = {
        "gradients": lambda: engine.gradients([batch], job.windows, num_targets(batch)),
        "update": lambda: engine.update(job.train.lr),
    }
    with peak:
        taken = medians(steps, job.device, repeat, ceilings.matrix.measure)
    training = _figures(sum(taken.values()), tokens, TRAINING * flops, peak)
    return {"forward": forward, "training": training}, taken["update"]


def _figures(seconds: float, tokens: int, flops: float, peak: Peak) -> dict[str, Any]:
    rates = {"tokens_per_second": tokens / seconds, "flops_per_second": flops / seconds}
    return {"seconds": seconds, **rates, "peak_bytes": peak.bytes}


def _parts(job: BenchJob, engine: LocalEngine, batch: Batch) -> list[StepPart]:
    """Every distinct layer of the stack, and the modules before and after it."""
    model, plan, windows = engine.working, job.plan, job.windows
    autocast = partial(torch.autocast, job.device.type, torch.bfloat16, enabled=job.precision == "bf16")
    stream = torch.randn(*batch.tokens.shape, plan.dims.width, dtype=model.norm.weight.dtype, device=job.device)
    handed = for_graphs(plan, windows, job.device) if compiles(job.train, job.device) else windows
    parts = []
    spans = {entry: (layer, own) for entry, (layer, own) in zip(plan.entries, model.spans(), strict=True)}
    for entry, times in Counter(plan.entries).items():
        layer, own = spans[entry]
        through = partial(_through, _alone(layer, handed[own], batch, model.recompute), [layer], stream, autocast)
        asked = zip(entry.branches, windows[own], strict=True)
        flops = TRAINING * job.batch * sum(block.flops(plan.dims, job.sequence, window) for block, window in asked)
        window = windows[own] if len(entry.branches) > 1 else windows[own][0]
        kind = " | ".join(block.name() for block in entry.branches)
        parts.append(StepPart(str(entry), kind, times, window, flops, through))
    embed = partial(_through, lambda _: model.embedding(batch.tokens), [model.embedding], stream, autocast)
    parts.append(StepPart("embedding", "embedding", 1, None, 0, embed))
    ends = [model.norm, model.head]
    end = partial(_through, lambda x: model.head(model.norm(x), batch.targets), ends, stream, autocast)
    flops = TRAINING * batch.tokens.numel() * head_flops(plan)
    return [*parts, StepPart("norm, head, loss", "head", 1, None, flops, end)]


def _alone(layer: Residual, windows: BranchWindows, batch: Batch, recompute: bool) -> Callable[[Tensor], Tensor]:
    """One layer as the stack runs it: (B, T, D) to (B, T, D)."""
    run = partial(checkpoint, layer, use_reentrant=False) if recompute else layer

    def through(x: Tensor) -> Tensor:
        y: Tensor = run(x, None, windows, batch.document_starts)[0]
        return y

    return through


def _through(
    run: Callable[[Tensor], Tensor],
    modules: Sequence[nn.Module],
    x: Tensor,  # (B, T, D)
    autocast: Callable[[], AbstractContextManager[object]],
) -> None:
    """Forward, and backward to the input and the weights of `modules`, from a gradient that has the input's values."""
    x = x.detach().requires_grad_()
    with autocast():
        y = run(x)
    weights = [weight for module in modules for weight in module.parameters()]
    slope = x.detach().to(y.dtype) if y.ndim else torch.ones_like(y)
    torch.autograd.grad(y, [x, *weights], slope, allow_unused=True)


def _measured(
    job: BenchJob, parts: Sequence[StepPart], update: float, repeat: int, step: float, ceilings: Ceilings
) -> list[dict[str, Any]]:
    """The parts with their times and shares of the step; the optimizer's was measured along with the step."""
    taken = medians({part.name: part.run for part in parts}, job.device, repeat, ceilings.matrix.measure)
    whole = [
        {
            "part": part.name,
            "kind": part.kind,
            "count": part.times,
            "window": part.window,
            "seconds": part.times * taken[part.name],
            "share": part.times * taken[part.name] / step,
            "flops_per_second": part.flops / taken[part.name] if part.flops else None,
        }
        for part in parts
    ]
    optimizer = {"part": "clipping, AdamW", "kind": "optimizer", "count": 1, "window": None, "flops_per_second": None}
    return [*whole, {**optimizer, "seconds": update, "share": update / step}]
