"""Questions put to runs: text, needles over tasks x lengths x windows, recall by distance, the harness."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hybridkit.data.cache import digest_of
from hybridkit.data.open import context_length, held_out, open_feed, open_recall
from hybridkit.evaluation import recall
from hybridkit.evaluation.confidence import clustered
from hybridkit.evaluation.haystack import open_essays
from hybridkit.evaluation.needles import run_cell
from hybridkit.evaluation.perplexity import by_position, perplexity
from hybridkit.evaluation.request import Cell, Depth, Findings, Questions
from hybridkit.evaluation.ruler import TASKS
from hybridkit.evaluation.samples import Samples
from hybridkit.evaluation.scoring import Reading
from hybridkit.evaluation.target import Subject
from hybridkit.model.model import Model
from hybridkit.system.errors import UserError

ROW_TOKENS = 16384  # read together where rows are short
DEPTH_BINS = 10

Watch = Callable[[str, int, int], None]  # what is done, how much of it, of how much


class Grid:
    """Questions put to runs. Whatever is wrong with them is found on construction, before weights are read.

    Raises UserError where a question does not suit a run, or a prompt does not fit its length.
    """

    def __init__(self, subjects: Sequence[Subject], questions: Questions, watch: Watch) -> None:
        self.subjects, self.questions, self._watch = subjects, questions, watch
        self._essays = open_essays(questions.haystack)
        self._contexts: dict[str, int] = {}
        self._samples: dict[tuple[str, str, int], Samples] = {}
        for subject in subjects:
            if questions.gaps and not open_recall(subject.recipe.data):
                raise UserError(f"--recall: {subject.run.path} was trained on text, not on `source: recall(...)`")
            if questions.perplexity:
                data, rules = subject.text.data, subject.recipe.rules
                self._contexts[subject.name] = context_length(data, questions.context, rules)
        for subject in subjects:
            self._prepare(subject)

    def _prepare(self, subject: Subject) -> None:
        """Size the samples: once for all subjects with the same tokenizer."""
        q = self.questions
        for task in q.tasks:
            for length in q.lengths:
                key = subject.tokenizer.digest, task, length
                if key in self._samples:
                    continue
                made = Samples(task, length, q.seed, subject.tokenizer, subject.tokenizer.digest, self._essays)
                self._samples[key] = made
                for done in made.prepare(q.samples):
                    self._watch(f"sizing {task} at {length:,}", done, q.samples)

    def answers(self) -> Findings:
        """Ask every run everything."""
        findings = Findings(
            self._settings(),
            {subject.name: subject.trained_windows for subject in self.subjects},
            {subject.name: subject.origin.to_json() for subject in self.subjects},
            notes=list(dict.fromkeys(note for subject in self.subjects for note in self._notes(subject))),
        )
        for subject in self.subjects:
            with subject.model(self.questions.device) as model:
                for window in self.questions.windows:
                    _Sitting(self, subject, model, window, findings).ask()
        return findings

    def _notes(self, subject: Subject) -> Iterator[str]:
        """What a reader must know of a run's figures."""
        text = subject.text if self.questions.perplexity else None
        known = {"tokenizer"} if text and text.same else set()  # the digest of the text covers it
        if missing := [name for name in subject.lacking if name not in known]:
            yield (
                f"{subject.run.path} keeps no record of its {' and '.join(missing)}, as older versions did not: whether"
                " they are those of its training cannot be verified"
            )
        if text and not text.same:
            yield (
                f"{subject.run.path}: the text of data.source is not what this run was trained on (digest"
                f" {text.digest} now, {subject.origin.trained_text} in the run), so that these figures are of"
                " other text, parts of which the run may have been trained on"
            )

    def samples(self, subject: Subject, task: str, length: int) -> Samples:
        """The samples of a cell, prepared."""
        return self._samples[subject.tokenizer.digest, task, length]

    def context(self, subject: Subject) -> int:
        """Tokens of a row for the loss by position."""
        return self._contexts[subject.name]

    def watch(self, what: str, done: int, total: int) -> None:
        """Tell whoever watches."""
        self._watch(what, done, total)

    def _settings(self) -> dict[str, Any]:
        """What scores depend on beside the runs."""
        q, essays = self.questions, self._essays
        used = any(TASKS[task].haystack == "essay" for task in q.tasks)
        return {
            "samples": q.samples,
            "seed": q.seed,
            "scoring": q.scoring,
            "haystack": {"name": essays.name, "digest": essays.digest} if used else None,
            "harness": {"limit": q.limit, "include": q.include and str(q.include)} if q.harness else None,
            "interval": "95 %: Clopper and Pearson's on the effective number of samples; a sequence is one sample",
        }


class _Sitting:
    """One model at one test-time window."""

    def __init__(self, grid: Grid, subject: Subject, model: Model, window: int | None, findings: Findings) -> None:
        self.grid, self.q, self.subject, self.model, self.window = grid, grid.questions, subject, model, window
        self.findings = findings
        self.reading = Reading(window, self.q.batch, self.q.chunk)

    def ask(self) -> None:
        """Everything that was asked for."""
        if self.q.perplexity:
            self._text()
            self._positions()
        for task in self.q.tasks:
            for length in self.q.lengths:
                self._needles(self.grid.samples(self.subject, task, length))
        if self.q.gaps:
            self._recall()
        if self.q.harness:
            self._harness()

    def _watch(self, what: str, done: int, total: int) -> None:
        at = f", window {self.window:,}" if self.window else ""
        self.grid.watch(f"{self.subject.name}: {what}{at}", done, total)

    def _text(self) -> None:
        recipe = self.subject.recipe
        data, train = self.subject.text.data, recipe.train
        rows = max(1, ROW_TOKENS // data.sequence)
        feed = open_feed(data, train.model_copy(update={"batch_tokens": rows * data.sequence}), rules=recipe.rules)
        self._watch("held-out text", 0, 1)
        loss = perplexity(self.model, feed.validation(), self.reading)
        found = {"window": self.window} | loss.to_json() | self.subject.text.to_json()
        self.findings.perplexity.setdefault(self.subject.name, []).append(found)
        self._watch("held-out text", 1, 1)

    def _positions(self) -> None:
        data, context = self.subject.text.data, self.grid.context(self.subject)
        self._watch(f"loss by position to {context:,}", 0, 1)
        text = held_out(data, context, max(1, ROW_TOKENS // context), self.subject.recipe.rules)
        bins = by_position(self.model, text, self.reading, data.sequence if context > data.sequence else None)
        place = {"run": self.subject.name, "window": self.window, "context": context} | self.subject.text.to_json()
        self.findings.by_position += [place | found.to_json() for found in bins]
        self._watch(f"loss by position to {context:,}", 1, 1)

    def _needles(self, samples: Samples) -> None:
        lines: list[dict[str, Any]] = []
        file = needle_file(self.subject, samples, self.q.scoring, self.window, self.model.head.weight.device.type)
        for line in run_cell(self.model, samples, self.q.samples, self.q.scoring, self.reading, file):
            lines.append({key: line[key] for key in ("score", "depths", "found")})  # prompts are long
            self._watch(f"{samples.task} at {samples.length:,}", len(lines), self.q.samples)
        name = samples.task if self.q.scoring == "ruler" else f"{samples.task} ({self.q.scoring})"
        self._score(name, samples.length, [[line["score"]] for line in lines])
        depths = by_depth(lines)
        place = (self.subject.name, name, samples.length, self.window)
        self.findings.depths += [Depth(*place, depth, asked, found) for depth, asked, found in depths]

    def _recall(self) -> None:
        data = self.subject.recipe.data
        task = open_recall(data)
        assert task
        batches = held_out(data, data.sequence, max(1, ROW_TOKENS // data.sequence))
        for distance, rows in recall.near(self.model, batches, self.reading).items():
            self._score("recall_near", distance, rows)
        for done, gap in enumerate(self.q.gaps, start=1):
            hits = recall.far(self.model, task, gap, self.q.samples, self.q.seed, self.reading)
            self._score("recall_far", gap, [[hit] for hit in hits])
            self._watch(f"recall over {gap:,} tokens", done, len(self.q.gaps))

    def _score(self, task: str, length: int, scores: Sequence[Sequence[float]]) -> None:
        """Note the scores of a cell, in groups that are independent of each other."""
        samples = sum(map(len, scores))
        cell = Cell(self.subject.name, task, length, self.window, samples, *clustered(scores))
        self.findings.cells.append(cell)

    def _harness(self) -> None:
        from hybridkit.evaluation.harness import evaluate

        q = self.q
        self._watch(f"harness: {', '.join(q.harness)}", 0, 1)
        found = evaluate(
            self.model, q.harness, self.reading, include=q.include, limit=q.limit, lengths=q.lengths, seed=q.seed
        )
        at = f", window {self.window}" if self.window else ""
        self.findings.tasks[f"{self.subject.name}{at}"] = found
        self._watch(f"harness: {', '.join(q.harness)}", 1, 1)


def needle_file(subject: Subject, samples: Samples, scoring: str, window: int | None, device: str = "cpu") -> Path:
    """Where the samples of a cell lie: named by all that its answers depend on."""
    digest = digest_of([samples.digest, subject.origin.fingerprint, scoring, window, device])
    return subject.folder / "needles" / f"{samples.task}-{samples.length}-{window or 'own'}-{digest[:16]}.jsonl"


def by_depth(lines: Sequence[dict[str, Any]]) -> list[tuple[int, int, int]]:
    """(depth in percent where a bin begins, answers asked for, right ones) of ten bins; those without any left out."""
    asked, found = [0] * DEPTH_BINS, [0] * DEPTH_BINS
    for line in lines:
        for depth, hit in zip(line["depths"], line["found"], strict=True):
            place = min(int(depth * DEPTH_BINS / 100), DEPTH_BINS - 1)
            asked[place] += 1
            found[place] += hit
    return [(100 // DEPTH_BINS * n, asked[n], found[n]) for n in range(DEPTH_BINS) if asked[n]]
