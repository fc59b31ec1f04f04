"""Evaluation of runs: held-out text, needle tasks x lengths x windows, recall by distance, the harness."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hybridkit.data.cache import digest_of
from hybridkit.data.feed import Batch
from hybridkit.data.recipe_data import context_length, feed_source, held_out_batches, open_feed
from hybridkit.data.sources.recall import RecallTask
from hybridkit.evaluation import recall
from hybridkit.evaluation.confidence import clustered
from hybridkit.evaluation.haystack import open_essays
from hybridkit.evaluation.needles import beyond, run_cell
from hybridkit.evaluation.perplexity import by_position, perplexity
from hybridkit.evaluation.provenance import EvalText
from hybridkit.evaluation.request import CellScore, DepthScore, EvalProgress, EvalRequest, EvalResult, unwatched
from hybridkit.evaluation.samples import Samples
from hybridkit.evaluation.scoring import ReadOptions
from hybridkit.evaluation.target import EvalTarget
from hybridkit.evaluation.task import choose_task
from hybridkit.model.model import Model
from hybridkit.system.errors import UserError, naming
from hybridkit.system.machine import choose_device, choose_precision

ROW_TOKENS = 16384  # read together where rows are short
DEPTH_BINS = 10


class Evaluator:
    """Evaluates runs. Construction checks the whole request before any weights are read.

    Raises UserError where a question does not suit a run, or a prompt does not fit its length.
    """

    def __init__(self, targets: Sequence[EvalTarget], request: EvalRequest, watch: EvalProgress = unwatched) -> None:
        self.targets, self.request, self._watch = targets, request, watch
        self._essays = open_essays(request.haystack)
        self._texts: dict[str, list[tuple[EvalText, int]]] = {}
        self._samples: dict[tuple[str, str, int], Samples] = {}
        self._uses_essays = any(choose_task(name).uses_essays for name in request.tasks)
        if request.haystack and not self._uses_essays:
            raise UserError(f"--haystack: {', '.join(request.tasks)} hides nothing in essays; leave it out")
        if request.harness and any(target.cut for target in targets):
            raise UserError("--reset-state and --evict are for text, needles and recall; leave --tasks out")
        for target in targets:
            recall.check_recall(request.gaps, target.recipe.data, target.registry, target.run.path)
            if request.perplexity:
                self._texts[target.name] = [(text, self._context(target, text)) for text in target.texts(request.texts)]
        for target in targets:
            self._prepare(target)

    def _context(self, target: EvalTarget, text: EvalText) -> int:
        """Tokens of a row for the loss by position."""
        return context_length(text.data, self.request.context, target.recipe.rules, target.registry)

    def _prepare(self, target: EvalTarget) -> None:
        """Size the samples: once for all targets with the same tokenizer."""
        request = self.request
        for task in request.tasks:
            for length in request.lengths:
                key = target.tokenizer.digest, task, length
                if key in self._samples:
                    continue
                made = Samples(task, length, request.seed, target.tokenizer, target.tokenizer.digest, self._essays)
                self._samples[key] = made
                for done in made.prepare(request.samples):
                    self._watch(f"sizing {task} at {length:,}", done, request.samples)

    def run_all(self) -> EvalResult:
        """Evaluate every run at every window."""
        result = EvalResult(
            self._settings(),
            {target.name: target.trained_windows for target in self.targets},
            {target.name: target.origin.to_json() for target in self.targets},
            notes=list(dict.fromkeys(note for target in self.targets for note in target.notes(self.request))),
        )
        for target in self.targets:
            with naming(self._lighter()), target.model(self.request.device, self.request.precision) as model:
                for window in self.request.windows:
                    _RunAtWindow(self, target, model, window, result).ask()
        return result

    def _lighter(self) -> str:
        """Settings that need less memory, the first to try first."""
        batch, chunk = self.request.batch // 2, self.request.chunk // 2
        sizes = [f"--batch {batch}"] * (batch > 0) + [f"--chunk {chunk}"] * (chunk > 0)
        return " or ".join([*sizes, "--precision bf16"])

    def samples(self, target: EvalTarget, task: str, length: int) -> Samples:
        """The samples of a cell, prepared."""
        return self._samples[target.tokenizer.digest, task, length]

    def texts(self, target: EvalTarget) -> list[tuple[EvalText, int]]:
        """The texts to read, each with the tokens of a row for the loss by position."""
        return self._texts[target.name]

    def watch(self, what: str, done: int, total: int) -> None:
        """Report progress."""
        self._watch(what, done, total)

    def _settings(self) -> dict[str, Any]:
        """Settings that scores depend on, besides the runs."""
        request, essays = self.request, self._essays
        harness = {"limit": request.limit, "include": request.include and str(request.include), "seed": request.seed}
        return {
            "samples": request.samples,
            "seed": request.seed,
            "scoring": request.scoring,
            "precision": request.precision and choose_precision(request.precision, choose_device(request.device).type),
            "haystack": {"name": essays.name, "digest": essays.digest} if self._uses_essays else None,
            "harness": harness | {"lengths": list(request.lengths)} if request.harness else None,
            "interval": "95 %: Clopper and Pearson's on the effective number of samples; a sequence is one sample",
        }


class _RunAtWindow:
    """One model at one test-time window."""

    def __init__(
        self, evaluator: Evaluator, target: EvalTarget, model: Model, window: int | None, result: EvalResult
    ) -> None:
        self.evaluator, self.request, self.target = evaluator, evaluator.request, target
        self.model, self.window, self.result = model, window, result
        self.reading = ReadOptions(window, self.request.batch, self.request.chunk, target.cut)
        self.reach = target.plan.reach(window, target.silenced)
        self._guesses: list[str] = []  # cells with answers beyond that reach

    def ask(self) -> None:
        """Run every part of the request."""
        if self.request.perplexity:
            for text, context in self.evaluator.texts(self.target):
                self._text(text)
                self._positions(text, context)
        for task in self.request.tasks:
            for length in self.request.lengths:
                self._needles(self.evaluator.samples(self.target, task, length))
        if self.request.gaps:
            self._recall()
        if self.request.harness:
            self._harness()
        if self._guesses:
            at = f" at window {self.window:,}" if self.window else ""
            self.result.notes.append(
                f"* {self.target.name}{at}: no path of the stack leads back more than {self.reach:,} tokens, so that"
                f" what lies further back can only be guessed: {', '.join(self._guesses)}"
            )

    def _watch(self, what: str, done: int, total: int) -> None:
        at = f", window {self.window:,}" if self.window else ""
        self.evaluator.watch(f"{self.target.name}: {what}{at}", done, total)

    def _text(self, text: EvalText) -> None:
        recipe = self.target.recipe
        data, train = text.data, recipe.train
        rows = max(1, ROW_TOKENS // data.sequence)
        train = train.model_copy(update={"batch_tokens": rows * data.sequence})
        feed = open_feed(data, train, rules=recipe.rules, registry=self.target.registry)
        read = self._token_watch(text.source or "held-out text", feed.validation())
        loss = perplexity(self.model, feed.validation(), self.reading, read)
        found = {"window": self.window} | loss.to_json() | text.to_json()
        self.result.perplexity.setdefault(self.target.name, []).append(found)

    def _positions(self, text: EvalText, context: int) -> None:
        data = text.data
        rows, rules = max(1, ROW_TOKENS // context), self.target.recipe.rules
        batches = partial(held_out_batches, data, context, rows, rules, self.target.registry)
        restart = data.sequence if context > data.sequence else None
        what = f"{text.source or 'loss'} by position to {context:,}"
        read = self._token_watch(what, batches(), passes=2 if restart else 1)
        bins = by_position(self.model, batches(), self.reading, restart, read)
        place = {"run": self.target.name, "window": self.window, "context": context} | text.to_json()
        self.result.by_position += [place | found.to_json() for found in bins]

    def _token_watch(self, what: str, batches: Iterable[Batch], passes: int = 1) -> Callable[[int], None]:
        """Reports the tokens read, of all that the batches hold; counting them first takes no model."""
        total, done = passes * sum(batch.tokens.numel() for batch in batches), 0

        def read(tokens: int) -> None:
            nonlocal done
            done += tokens
            self._watch(what, done, total)

        self._watch(what, 0, total)
        return read

    def _needles(self, samples: Samples) -> None:
        lines: list[dict[str, Any]] = []
        where, kind = self.model.head.weight.device.type, self.result.settings["precision"]
        file = needle_file(self.target, samples, self.request.scoring, self.window, where, kind)
        for line in run_cell(self.model, samples, self.request.samples, self.request.scoring, self.reading, file):
            lines.append({key: line[key] for key in ("score", "depths", "found")})  # prompts are long
            lines[-1]["unseen"] = self._unseen(samples, line["index"])
            self._watch(f"{samples.task} at {samples.length:,}", len(lines), self.request.samples)
        name = samples.task if self.request.scoring == "ruler" else f"{samples.task} ({self.request.scoring})"
        unseen = [one for line in lines for one in line["unseen"]]
        self._score(name, samples.length, [[line["score"]] for line in lines], sum(unseen) / len(unseen))
        place = (self.target.name, name, samples.length, self.window)
        self.result.depths += [DepthScore(*place, *found) for found in by_depth(lines)]

    def _unseen(self, samples: Samples, index: int) -> list[bool]:
        """Whether each answer of a sample lies beyond the reach of the stack."""
        prompt = samples.prompt(index)
        if self.reach is None or self.reach >= samples.length:
            return [False] * len(prompt.outputs)
        return beyond(prompt, self.reach, samples.tokenizer)

    def _recall(self) -> None:
        data = self.target.recipe.data
        task = feed_source(data, self.target.registry)
        assert isinstance(task, RecallTask)
        together = max(1, ROW_TOKENS // data.sequence)
        batches = held_out_batches(data, data.sequence, together, registry=self.target.registry)
        for begin, (rows, distances) in recall.near(self.model, batches, self.reading).items():
            # The value stands one token after the key.
            hidden = sum(self.reach is not None and distance > self.reach for distance in distances) / len(distances)
            self._score("recall_near", begin, rows, hidden)
        for done, gap in enumerate(self.request.gaps, start=1):
            hits = recall.far(self.model, task, gap, self.request.samples, self.request.seed, self.reading)
            places = [gap + 1 + 2 * pair for pair in range(task.pairs)]  # of the values, before the key that asks
            hidden = sum(self.reach is not None and place >= self.reach for place in places) / task.pairs
            self._score("recall_far", gap, [[hit] for hit in hits], hidden)
            self._watch(f"recall over {gap:,} tokens", done, len(self.request.gaps))

    def _score(self, task: str, length: int, scores: Sequence[Sequence[float]], unseen: float) -> None:
        """Record the scores of a cell. Groups are independent of each other; scores of one group may not be.

        `unseen`: the share of the answers that lie beyond the reach of the stack.
        """
        samples = sum(map(len, scores))
        cell = CellScore(self.target.name, task, length, self.window, samples, *clustered(scores), unseen)
        if unseen:
            share = f"{unseen:.0%}" if unseen >= 0.005 else "less than 1%"
            self._guesses.append(f"{share} of the answers of {task} at {length:,}")
        self.result.cells.append(cell)

    def _harness(self) -> None:
        from hybridkit.evaluation.harness import run_harness

        request = self.request
        self._watch(f"harness: {', '.join(request.harness)}", 0, 1)
        found = run_harness(
            self.model,
            request.harness,
            self.reading,
            include=request.include,
            limit=request.limit,
            lengths=request.lengths,
            seed=request.seed,
        )
        at = f", window {self.window}" if self.window else ""
        self.result.tasks[f"{self.target.name}{at}"] = found
        self._watch(f"harness: {', '.join(request.harness)}", 1, 1)


def needle_file(
    target: EvalTarget,
    samples: Samples,
    scoring: str,
    window: int | None,
    device: str = "cpu",
    precision: str | None = None,
) -> Path:
    """The file of a cell's answers. Its name holds a digest of everything the answers depend on."""
    # No precision where none is asked for, as in older versions: their answers are found again.
    chosen = [precision] if precision else []
    digest = digest_of([samples.digest, target.origin.fingerprint, scoring, window, device, *chosen])
    return target.folder / "needles" / f"{samples.task}-{samples.length}-{window or 'own'}-{digest[:16]}.jsonl"


def by_depth(lines: Sequence[dict[str, Any]]) -> list[tuple[int, int, int, int]]:
    """(depth in percent where a bin begins, answers asked for, right ones, those beyond the stack's reach) of ten bins.

    Bins without any answer are left out.
    """
    bins = [[0, 0, 0] for _ in range(DEPTH_BINS)]
    for line in lines:
        for depth, hit, hidden in zip(line["depths"], line["found"], line["unseen"], strict=True):
            place = min(int(depth * DEPTH_BINS / 100), DEPTH_BINS - 1)
            bins[place] = [sum(pair) for pair in zip(bins[place], (1, hit, hidden), strict=True)]
    return [(100 // DEPTH_BINS * n, *counts) for n, counts in enumerate(bins) if counts[0]]  # type: ignore[misc]
