"""Probes: what a model remembers while it is trained (`train.probes`), as a callback that measures.

The samples are the same at every step and in every run, and nothing is drawn from a global generator, so that a run
with probes trains exactly as one without. Their cost is known beforehand, in FLOPs against those of training, and
bounded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from hybridkit.cost.flops import TRAINING, CostSettings, forward_flops, total_state_bytes
from hybridkit.data.source import open_source
from hybridkit.data.sources.recall import RecallTask
from hybridkit.data.tokenizer import Tokenizer
from hybridkit.evaluation.haystack import open_essays
from hybridkit.evaluation.needles import answer_generated
from hybridkit.evaluation.recall import far, near
from hybridkit.evaluation.samples import Samples
from hybridkit.evaluation.scoring import ReadOptions
from hybridkit.evaluation.task import ANSWER_TOKENS
from hybridkit.evaluation.task_names import task_names
from hybridkit.inference.sampling import Sampling
from hybridkit.inference.streaming import Writer
from hybridkit.model.model import Model
from hybridkit.model.plan import Plan
from hybridkit.recipe.files import Loaded
from hybridkit.recipe.probe import NEAR, Probe, needle_metric, recall_metric
from hybridkit.system.errors import UserError
from hybridkit.system.machine import choose_device, device_memory
from hybridkit.training.callback import Callback, Line, TrainingStart

SEED = 42
ROW_TOKENS = 8192  # read together
_NEAR = "probe.recall.near."  # the same whichever probe measures it


def probes_of(loaded: Loaded) -> list[Callback]:
    """The callback of a recipe's probes, if it has any. Raises UserError for a task that is not known."""
    return [Probes(loaded)] if loaded.recipe.train.probes else []


class Probes(Callback):
    """Measures the probes of a recipe at the steps that they name. Raises UserError for `recall` on text."""

    def __init__(self, loaded: Loaded) -> None:
        self._recipe, self._registry = loaded.recipe, loaded.registry
        self._probes: Sequence[Probe] = [_with_tasks(probe) for probe in loaded.recipe.train.probes]
        self._samples: dict[tuple[str, int], Samples] = {}
        self._seconds, self._began = 0.0, time.perf_counter()
        self._first = next((probe for probe in self._probes if probe.recall), None)
        self._task = self._recall_task() if self._first else None
        names = [name for probe in self._probes for name in probe.metrics() if not name.startswith(_NEAR)]
        if twice := next((name for name in names if name != NEAR and names.count(name) > 1), None):
            raise UserError(f"train.probes: two of them measure {twice}; let one of them do it")

    def _recall_task(self) -> RecallTask:
        """What the run is trained on, or the first such part of a mixture. Raises UserError where all is text."""
        for text in self._recipe.data.texts:
            if isinstance(task := open_source(text, self._registry), RecallTask):
                return task
        raise UserError("train.probes: recall asks runs on `data.source: recall(...)`; this one is on text")

    def metrics(self) -> Sequence[str]:
        return list(dict.fromkeys(name for probe in self._probes for name in probe.metrics()))

    def check(self, plan: Plan) -> None:
        if any(probe.windows for probe in self._probes) and not plan.has_windows:
            raise UserError(f"train.probes: windows: no block of {plan.pattern} has a window; leave it out")
        share, allowed = self.share(plan), self._recipe.train.probe_share
        if share > allowed:
            raise UserError(
                f"train.probes: they take {share:.1%} of the FLOPs of training, and train.probe_share allows"
                f" {allowed:.1%}: ask less often, or for fewer samples, or allow more"
            )

        self._refuse_large(plan)

    def _refuse_large(self, plan: Plan) -> None:
        """Raises UserError where the states of the rows that are read together are larger than the memory."""
        rows, device = ReadOptions().batch, choose_device(self._recipe.train.device)
        longest = max((tokens for probe in self._probes for tokens in self._tokens(probe)), default=1)
        held, spare = total_state_bytes(plan, CostSettings(longest, batch=rows)), device_memory(device)
        if held > spare:
            raise UserError(
                f"train.probes: after {longest:,} tokens the states of {rows} rows take {held / 2**30:,.1f} GiB, and"
                f" {device.type} has {spare / 2**30:,.1f} GiB: ask over fewer tokens"
            )

    def _tokens(self, probe: Probe) -> list[int]:
        """Of the sequences that a probe reads."""
        pairs = self._task.pairs if self._task else 0
        return [*(2 * pairs + gap + 1 for gap in probe.recall or ()), *(n + ANSWER_TOKENS for n in probe.lengths or ())]

    def prepare(self, tokenizer: Tokenizer) -> None:
        """Raises UserError where a question of needles does not fit its length."""
        asked = {(task, n) for probe in self._probes for task in probe.needles or () for n in probe.lengths or ()}
        for task, length in sorted(asked):
            samples = self._samples_of(task, length, tokenizer)
            try:
                list(samples.prepare(1))
            except UserError as error:
                raise UserError(f"train.probes: {str(error).replace('--lengths', 'lengths')}") from error

    def _samples_of(self, task: str, length: int, tokenizer: Tokenizer) -> Samples:
        key = task, length
        if key not in self._samples:
            self._samples[key] = Samples(task, length, SEED, tokenizer, tokenizer.digest, open_essays(None))
        return self._samples[key]

    def share(self, plan: Plan) -> float:
        """FLOPs of the probes as a share of those of training; text that is decoded counts like text that is read."""
        data, train = self._recipe.data, self._recipe.train
        step = TRAINING * train.batch_tokens // data.sequence * forward_flops(plan, data.sequence)
        return sum(self._flops(probe, plan) / (probe.every * step) for probe in self._probes)

    def _flops(self, probe: Probe, plan: Plan) -> int:
        windows = len(probe.test_windows)
        if probe.write:
            return windows * forward_flops(plan, len(probe.write.encode()) + probe.tokens)
        if probe.recall and self._task:
            near_flops = ROW_TOKENS // self._recipe.data.sequence * forward_flops(plan, self._recipe.data.sequence)
            return windows * (probe.samples * sum(forward_flops(plan, n) for n in self._tokens(probe)) + near_flops)
        read = sum(forward_flops(plan, n) for n in self._tokens(probe))
        return windows * probe.samples * len(probe.needles or ()) * read

    def due(self, step: int, last: bool) -> bool:
        return any(last or step % probe.every == 0 for probe in self._probes)

    @torch.no_grad()
    def measure(self, step: int, last: bool, model: Model) -> Line:
        begin, found = time.perf_counter(), dict[str, Any]()
        for probe in (probe for probe in self._probes if last or step % probe.every == 0):
            asked = dict(self._asked(probe, model))
            if probe is self._first:
                asked = {NEAR: next(iter(asked.values())), **asked}
            found |= asked
            if probe.write:
                found["written"] = [*found.get("written", ()), *self._written(probe.write, probe, model)]
        self._seconds += time.perf_counter() - begin
        return found

    def on_start(self, start: TrainingStart) -> None:
        self._seconds, self._began = 0.0, time.perf_counter()

    def summary(self) -> str:
        whole = time.perf_counter() - self._began
        return f"probes took {self._seconds:,.1f} s, {self._seconds / whole:.1%} of the time"

    def _asked(self, probe: Probe, model: Model) -> Iterator[tuple[str, Any]]:
        for window in probe.test_windows:
            reading = ReadOptions(window)
            if probe.recall and self._task:
                yield recall_metric("near", window), self._near(self._task, model, reading)
                for gap in probe.recall:
                    hits = far(model, self._task, gap, probe.samples, SEED, reading)
                    yield recall_metric(gap, window), sum(hits) / len(hits)
            for task in probe.needles or ():
                for length in probe.lengths or ():
                    yield needle_metric(task, length, window), self._needles(model, task, length, probe, reading)

    def _written(self, prompt: str, probe: Probe, model: Model) -> Iterator[Mapping[str, Any]]:
        """The prompt, what follows it, and the window where one is asked for."""
        writer = Writer(model, Sampling(temperature=0), probe.tokens)
        for window in probe.test_windows:
            (text,) = writer.texts(writer.read([prompt], window=window))
            yield {"prompt": prompt, "text": text} | ({"window": window} if window else {})

    def _near(self, task: RecallTask, model: Model, reading: ReadOptions) -> float | None:
        sequence = self._recipe.data.sequence
        batches = task.feed(sequence, max(1, ROW_TOKENS // sequence)).validation()
        hits = [hit for one in near(model, [next(batches)], reading).values() for row in one.hits for hit in row]
        return sum(hits) / len(hits) if hits else None

    def _needles(self, model: Model, task: str, length: int, probe: Probe, reading: ReadOptions) -> float:
        assert model.tokenizer
        samples = self._samples_of(task, length, model.tokenizer)
        for _ in samples.prepare(probe.samples):
            pass
        scores: list[float] = []
        for first in range(0, probe.samples, reading.batch):
            chosen = range(first, min(first + reading.batch, probe.samples))
            answers = answer_generated(model, [samples[index].prompt for index in chosen], reading)
            scores += [answer.score for answer in answers]
        return sum(scores) / len(scores)


def _with_tasks(probe: Probe) -> Probe:
    """The probe with groups of needle tasks spelt out."""
    if not probe.needles:
        return probe
    try:
        return probe.model_copy(update={"needles": list(task_names(probe.needles))})
    except UserError as error:
        raise UserError(f"train.probes: {str(error).removeprefix('--')}") from error
