"""Models, steps and timings of `gpu_sections.py`, which imports this file."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

from hybridkit.cost.cross_check import scaled_down
from hybridkit.cost.flops import TRAINING, forward_flops
from hybridkit.cost.memory import device_kind
from hybridkit.data.batches import Batch
from hybridkit.inference.decode import prefill
from hybridkit.inference.language_model import LanguageModel
from hybridkit.model.loading import plan as compile_recipe
from hybridkit.model.loss import linear_cross_entropy
from hybridkit.model.model import Model
from hybridkit.model.plan import Plan, Uninitialized
from hybridkit.recipe.schema import Train
from hybridkit.runs.run import load_recipe
from hybridkit.system.choices import Precision
from hybridkit.system.machine import DTYPES
from hybridkit.system.timing import Peak, medians, seconds
from hybridkit.training.ceiling import copy_ceiling, peak_flops
from hybridkit.training.compile import compiled_cross_entropy
from hybridkit.training.engine import Windows
from hybridkit.training.engines.local import engine
from hybridkit.training.engines.local.engine import LocalEngine
from hybridkit.training.micro_batches import training_bytes
from hybridkit.training.optimizer_state import parameter_groups
from hybridkit.training.optimizers.adamw import Adamw

RATE, REPEAT = 1e-4, 4  # a rate that changes little; timed steps, after two that warm up


@dataclass(frozen=True)
class Bench:
    """The device, and the sizes: those of the recipes, or small ones."""

    device: torch.device
    small: bool

    @property
    def arguments(self) -> list[str]:
        """Of the command line, for a section in a process of its own."""
        return ["--device", self.device.type, *(["--small"] if self.small else [])]

    @property
    def overrides(self) -> list[str]:
        """What makes the quickstart's recipe small."""
        small = ["model.width=32", "data.sequence=64", "train.batch_tokens=256", "pattern=[swa:stoch(16,32), mlstm]"]
        return small if self.small else []

    @property
    def sequence(self) -> int:
        """Tokens of a row in training."""
        return 128 if self.small else 16384

    @property
    def prompt(self) -> int:
        """Tokens of a prompt that is read alone."""
        return 256 if self.small else 16384

    @property
    def replies(self) -> int:
        """Tokens that are generated for each row."""
        return 40 if self.small else 200

    @property
    def batches(self) -> tuple[int, ...]:
        """Rows that are decoded together."""
        return (1, 3) if self.small else (1, 8, 64)

    @property
    def precision(self) -> Precision:
        """That training and inference compute in."""
        return "bf16" if self.device.type == "cuda" else "fp32"

    def plan(self, name: str, ffn: int | None = None) -> Plan:
        """A shipped recipe's, small where that is asked for; `ffn`: the width of every FFN."""
        found = compile_recipe(load_recipe(name, [] if ffn is None else [f"pattern={self._wide(name, ffn)}"]))
        if not self.small:
            return found
        small = scaled_down(found)
        return replace(small, written=small.written[:4], entries=small.entries[:4])

    def _wide(self, name: str, ffn: int) -> str:
        return load_recipe(name).recipe.pattern.replace("width=5461", f"width={ffn}")

    def tokens(self, rows: int, length: int, vocab: int = 256) -> Tensor:
        """Random ids (B, T) from a fixed seed."""
        return torch.randint(vocab, (rows, length), generator=torch.Generator().manual_seed(0)).to(self.device)

    def copy_rate(self) -> float:
        """Bytes a second that a copy reads and writes, the best of several."""
        copied = copy_ceiling(self.device)
        for _ in range(5):
            copied.measure()
        return copied.best

    def ceilings(self) -> Iterator[dict[str, Any]]:
        """This device's, measured now."""
        yield {"ceiling": "matrix product", "per_second": peak_flops(self.device, self.precision)}
        yield {"ceiling": "bytes read and written", "per_second": self.copy_rate()}

    def trainer(self, name: str, **options: Any) -> Trainer:
        """A training step of a shipped recipe."""
        return Trainer(self, self.plan(name, options.pop("ffn", None)), **options)

    def trained(
        self, name: str, options: dict[str, Any], cases: list[tuple[int | None, ...]]
    ) -> Iterator[dict[str, Any]]:
        """A row for each case of windows and one of memory, all by one engine, unless a case has failed."""
        engine = cache(partial(self.trainer, name, **options))
        for windows in cases:
            said = ", ".join(map(str, windows))
            row = row_of(partial(self.train, engine, windows), recipe=name, window=said, options=str(options))
            yield row
            if row["failed"]:
                engine.cache_clear()
                free()
        yield row_of(partial(self.memory, engine), recipe=name, options=str(options))
        engine.cache_clear()
        free()

    def train(self, made: Callable[[], Trainer], windows: tuple[int | None, ...]) -> dict[str, Any]:
        """Speed and memory of training; several windows take turns."""
        trainer = made()
        given = [trainer.windows(one) for one in windows]
        steps = [partial(trainer.step, one) for one in given]
        return self._measured(steps, trainer.tokens.numel(), mean(map(trainer.flops, given)))

    def memory(self, made: Callable[[], Trainer]) -> dict[str, Any]:
        """The peak of a step of two micro-batches, which holds all gradients, as the estimate beside it counts."""
        trainer = made()
        with Peak(self.device) as peak:
            trainer.step(trainer.windows(None), micro_batches=2)
        estimated = trainer.estimated_bytes()
        return {"peak_of_two_gib": peak.bytes / 2**30, "estimated_gib": estimated / 2**30, "failed": ""}

    def read_and_write(self, model: LanguageModel, rows: int) -> dict[str, Any]:
        """Tokens a second of prefill and of decoding."""
        tokens = self.tokens(rows, self.prompt if rows == 1 else 128)
        for _ in range(2):
            taken = seconds(partial(prefill, model, tokens), self.device)
        steps = model.generate(prefill(model, tokens), max_tokens=self.replies, temperature=0)
        next(steps), next(steps)  # the second one records the graph
        taken_steps = seconds(partial(list, steps), self.device)
        decoded = rows * (self.replies - 2) / taken_steps
        return {"prompt": tokens.shape[1], "prefill": tokens.numel() / taken, "decode": decoded, "failed": ""}

    def train_other(self, build: Callable[[Bench], nn.Module], compiled: bool) -> dict[str, Any]:
        """Another library's model with our chunked loss, clipping and optimizer."""
        model = build(self).to(self.device).train()
        tokens = self.tokens(1, self.sequence)
        optimizer = Adamw().build(parameter_groups(model, 0.1), Train(lr=RATE))
        inner = model.model if hasattr(model, "model") else model.backbone
        body: Callable[..., Any] = torch.compile(inner) if compiled else inner

        cross_entropy = compiled_cross_entropy() if compiled else linear_cross_entropy

        def step() -> None:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                x = body(input_ids=tokens, use_cache=False)[0]
                loss = cross_entropy(x.flatten(0, 1), model.lm_head.weight, tokens.roll(-1, 1).flatten())
            (loss / tokens.numel()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return self._measured([step], tokens.numel(), None)

    def _measured(self, steps: Sequence[Callable[[], object]], tokens: int, flops: float | None) -> dict[str, Any]:
        """Speed, share of the ceiling and peak of memory, by the mean over the steps of their medians."""
        with Peak(self.device) as peak:
            for step in steps:
                step()  # compiles; `medians` warms up once more
            calls = {str(number): step for number, step in enumerate(steps)}
            taken = mean(medians(calls, self.device, 1 if self.small else REPEAT).values())
        share = None if flops is None else flops / taken / peak_flops(self.device, self.precision)
        return {"tokens_per_second": tokens / taken, "share": share, "peak_gib": peak.bytes / 2**30, "failed": ""}

    @torch.no_grad()
    def language_model(self, plan: Plan) -> LanguageModel:
        """With random weights, in bf16 on a GPU."""
        with torch.device("meta"), Uninitialized():
            model = LanguageModel(plan)
        model.to(DTYPES[self.precision]).to_empty(device=self.device)
        for weight in model.parameters():
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5 if weight.ndim > 1 else 0.1)
        model.share_weights()
        return model.requires_grad_(False).eval()


@contextmanager
def drawn_on(device: torch.device) -> Iterator[None]:
    """Within, an engine's initial weights are drawn on the device: billions of them take long on one core of a CPU.

    The engine gets them on the CPU, as `initial_model` hands them over.
    """

    def drawn(plan: Plan, seed: int) -> Model:
        torch.manual_seed(seed)
        with device:
            return Model(plan).cpu()

    usual, engine.initial_model = engine.initial_model, drawn
    try:
        yield
    finally:
        engine.initial_model = usual


class Trainer:
    """The local engine on random tokens."""

    def __init__(
        self, bench: Bench, plan: Plan, *, rows: int = 1, recompute: bool = False, documents: bool = False,
        compile: bool | str = "auto", as_users: bool = False,
    ) -> None:  # fmt: skip
        given: dict[str, Any] = {"device": bench.device.type, "precision": bench.precision, "compile": compile}
        self._bench, self._plan, self._train = bench, plan, Train(recompute=recompute, **given)
        with nullcontext() if as_users else drawn_on(bench.device):
            self._engine = LocalEngine(plan, self._train)
        self.tokens = bench.tokens(rows, bench.sequence, plan.dims.vocab)
        starts = (
            torch.rand(self.tokens.shape, generator=torch.Generator().manual_seed(0)) < 2**-10 if documents else None
        )
        self._batch = Batch(self.tokens, self.tokens.roll(-1, 1), starts, 0)

    def windows(self, window: int | None) -> Windows:
        """`window`, or each policy's largest."""
        return self._plan.fixed_windows(min(window, self._bench.sequence) if window else None)

    def step(self, windows: Windows, micro_batches: int = 1) -> None:
        """Gradient, clipping and update."""
        self._engine.gradients([self._batch] * micro_batches, windows, micro_batches * self.tokens.numel())
        self._engine.update(RATE)

    def estimated_bytes(self) -> int:
        """What training takes by the cost model, which counts all gradients as held."""
        rows, sequence = self.tokens.shape
        kind = device_kind(self._bench.device)
        return training_bytes(self._plan, self._train, sequence, rows, self._bench.precision, kind)

    def flops(self, windows: Windows) -> int:
        """Of a step."""
        return TRAINING * len(self.tokens) * forward_flops(self._plan, self.tokens.shape[1], windows)


def row_of(measure: Callable[[], dict[str, Any]], **about: Any) -> dict[str, Any]:
    """What a measurement gives, or why it gives nothing: the next one is tried all the same."""
    try:
        return about | measure()
    except Exception as error:  # out of memory, a compiler, another library
        return about | {"failed": f"{type(error).__name__}: {str(error).partition(chr(10))[0][:160]}"}


def free() -> None:
    """Hand memory back before the next model."""
    gc.collect()
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
