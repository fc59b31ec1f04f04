"""The page of `hybridkit report RUN...`: what the runs are, cost, learned and remember, side by side."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from hybridkit.convert.record import ConversionRecord, read_conversion
from hybridkit.cost.summary import CostRequest, cost_entry, cost_requests
from hybridkit.evaluation.history import read_history
from hybridkit.evaluation.request import EvalResult
from hybridkit.recipe.files import Loaded, dump
from hybridkit.recipe.record import in_words
from hybridkit.report.console import apart
from hybridkit.report.conversion_page import conversion_parts, without_stages
from hybridkit.report.curves import RunCurve, curves_of, draw_curves
from hybridkit.report.eval_parts import evaluation_parts
from hybridkit.report.figure import labels
from hybridkit.report.flops import cost_rows
from hybridkit.report.flops_plot import draw_costs
from hybridkit.report.markup import in_html, in_text
from hybridkit.report.numbers import format_bytes, format_count, format_duration, format_parameters, format_tokens
from hybridkit.report.page import PageSection, TextTable, about, folded, html_page, paragraph, write_files
from hybridkit.report.page_picture import picture
from hybridkit.report.probe_plot import draw_probes
from hybridkit.report.recipe_pictures import stack_picture
from hybridkit.report.run_costs import step_flops
from hybridkit.runs.run import Run
from hybridkit.system.errors import Failure, UserError

Continuation = tuple[str, str, str]  # the run's name, the prompt, and what followed
_MOST_FILES = 40
_MOST_PICTURES = 6  # stacks that are drawn


@dataclass(frozen=True)
class _Subject:
    """A run and what the page says of it."""

    name: str
    run: Run
    loaded: Loaded
    request: CostRequest
    curve: RunCurve
    results: Sequence[EvalResult]
    conversion: ConversionRecord | None

    @property
    def flops(self) -> float:
        """Of all training so far."""
        of = step_flops(self.run)
        return sum(map(of, self.curve.steps))


def write_run_page(runs: Sequence[Path], file: Path, samples: Sequence[Continuation] = ()) -> Path:
    """Write the page; its path. Raises UserError for a folder without a run, and Failure where it cannot be written."""
    page = run_page(runs, samples)
    try:
        write_files(file.parent, {file.name: page})
    except OSError as error:
        raise Failure(f"{file}: the report cannot be written: {error.strerror}") from error
    return file


def run_page(runs: Sequence[Path], samples: Sequence[Continuation] = ()) -> str:
    """The HTML document of runs."""
    context = max(Run(path).recipe.recipe.data.sequence for path in runs)  # at which the costs of all compare
    subjects = [_subject(*pair, context) for pair in zip(curves_of(runs), runs, strict=True)]
    common, names = apart([str(run) for run in runs])
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors"
    said = [f"runs in {common}", machine] if common else [machine]
    return html_page(", ".join(names), [about(*said)], _sections(subjects, samples))


def _subject(curve: RunCurve, path: Path, context: int) -> _Subject:
    run = Run(path)
    loaded = run.recipe
    try:
        results = read_history(path / "eval")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path / 'eval'}: its results cannot be read ({error}); move them away") from error
    record = read_conversion(path)
    own = without_stages(results, record)
    return _Subject(str(path), run, loaded, cost_requests(str(path), loaded, [context])[0], curve, own, record)


def _sections(subjects: Sequence[_Subject], samples: Sequence[Continuation]) -> Iterator[PageSection]:
    edited = [f"{one.run.recipe_file}: {said}" for one in subjects for said in one.run.edits(one.loaded.recipe)]
    told = [paragraph(f"Not the recipe that was trained: {said}.") for said in edited]
    yield PageSection("Overview", [*told, _facts(subjects).html()])
    yield PageSection("Stack", list(_stacks(subjects)))
    yield PageSection("Costs", _costs(subjects))
    yield PageSection("Conversion", list(_conversions(subjects)))
    yield PageSection("Training", list(_training(subjects)))
    yield PageSection("Probes", list(_probes(subjects)))
    yield PageSection("Evaluation", list(evaluation_parts([one for subject in subjects for one in subject.results])))
    yield PageSection("Generations", list(_generations(samples)))
    yield PageSection("Recipes", list(_recipes(subjects)))
    yield PageSection("Files", [_files(subjects).html()])


def _names(subjects: Sequence[_Subject]) -> list[str]:
    return apart([subject.name for subject in subjects])[1]


def _compared(rows: Sequence[tuple[str, Sequence[str]]], names: Sequence[str], what: str) -> TextTable:
    """A row for each fact, a column for each run; rows that differ stand out."""
    differ = [place for place, (_, cells) in enumerate(rows) if len(set(cells)) > 1]
    marked = [f"{name} ≠" if place in differ else name for place, (name, _) in enumerate(rows)]
    table = [[name, *cells] for name, (_, cells) in zip(marked, rows, strict=True)]
    return TextTable("", [what, *names], table, differ)


def _facts(subjects: Sequence[_Subject]) -> TextTable:
    columns = [list(_about(subject)) for subject in subjects]
    rows = [(facts[0][0], [said for _, said in facts]) for facts in zip(*columns, strict=True)]
    return _compared(rows, _names(subjects), "")


def _about(subject: _Subject) -> Iterator[tuple[str, str]]:
    """What a run is, as pairs of a name and a text; the same names for every run."""
    recipe, plan, shown = subject.loaded.recipe, subject.request.plan, subject.curve.summary()
    train, data, record = recipe.train, recipe.data, subject.run.record()
    found, part = cost_entry(subject.request), " (last stage)" if subject.conversion else ""
    yield "pattern", plan.pattern
    yield "parameters", f"{format_parameters(found['params']['total'])} ({found['params']['total']:,})"
    yield "width, heads, vocabulary", f"{plan.dims.width}, {plan.dims.heads}, {plan.dims.vocab:,}"
    context = subject.request.settings.context
    yield f"state at {format_tokens(context)} tokens", format_bytes(found["state_bytes"][str(context)])
    yield "steps", f"{shown['step']:,} of {train.steps:,}{part}"
    yield "tokens", f"{shown['tokens']:,}{part}"
    yield "FLOPs of training", f"{format_count(subject.flops)}FLOP{part}"
    yield "training loss, last steps", _loss(shown["loss"]) + part
    yield "validation loss", _loss(shown["val_loss"])
    yield "validation bits a byte", _loss(shown["val_bits_per_byte"])
    yield "tokens/s, median", "-" if shown["tokens_per_second"] is None else f"{shown['tokens_per_second']:,.0f}"
    mfus = [line["mfu"] for line in subject.curve.steps if line.get("mfu") is not None]
    yield "MFU, median", _share(median(mfus)) if mfus else "-"
    yield "time in steps", format_duration(sum(line.get("seconds") or 0 for line in subject.curve.steps))
    yield "data", f"{in_words(data.source)}, {data.tokenizer} tokens"
    yield "sequence, batch", f"{format_tokens(data.sequence)}, {format_tokens(train.batch_tokens)} tokens"
    yield "learning rate", f"{train.lr:g}, {in_words(train.schedule)}"
    yield "optimizer, seed", f"{in_words(train.optimizer)}, {train.seed}"
    yield "engine", f"{record.engine}, ranks {record.ranks}, threads {record.threads}" if record else "-"
    yield "versions", ", ".join(f"{name} {version}" for name, version in record.versions.items()) if record else "-"
    yield "last written", _date(subject.run.metrics_file)


def _share(value: float) -> str:
    """A share of a ceiling; of a run of an older version, which measured that once, it may be more than all."""
    return f"{value:.1%}" if value <= 1 else "not known: the machine's ceiling was measured too low"


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _date(file: Path) -> str:
    return (
        datetime.fromtimestamp(file.stat().st_mtime).astimezone().strftime("%Y-%m-%d %H:%M") if file.exists() else "-"
    )


def _stacks(subjects: Sequence[_Subject]) -> Iterator[str]:
    """A picture for each stack that differs from those before."""
    names = labels(subject.name for subject in subjects)
    drawn: dict[tuple[str, object], str] = {}
    for subject in subjects:
        drawn.setdefault((subject.request.plan.pattern, subject.request.plan.config), subject.name)
    for place, subject in enumerate(one for one in subjects if one.name in drawn.values()):
        if place < _MOST_PICTURES:
            title, drawing = f"The stack of {subject.name}", stack_picture(subject.loaded, names[subject.name])
            yield picture(f"stack-{place + 1}", title, drawing)


def _costs(subjects: Sequence[_Subject]) -> list[str]:
    entries = [[cost_entry(subject.request)] for subject in subjects]
    head, rows = cost_rows(entries)
    table = TextTable("", head, [[label, *cells] for label, cells in rows])
    drawing = draw_costs([subject.request for subject in subjects])
    return [table.html(), picture("costs", "State and FLOPs over context", drawing)]


def _conversions(subjects: Sequence[_Subject]) -> Iterator[str]:
    for place, subject in enumerate(subjects, start=1):
        if subject.conversion:
            yield f"<h3>{in_html(subject.name)}</h3>"
            yield from conversion_parts(subject.conversion, f"-conversion-{place}")


def _training(subjects: Sequence[_Subject]) -> Iterator[str]:
    curves = [subject.curve for subject in subjects]
    if not any(curve.steps for curve in curves):
        yield paragraph("No step was made yet.")
        return
    stage = "; of a conversion, its last stage" if any(subject.conversion for subject in subjects) else ""
    yield picture("loss", f"Training and validation loss over tokens{stage}", draw_curves(curves))
    flops = [step_flops(subject.run) for subject in subjects]
    further = {
        "loss-flops": ("Loss over FLOPs", draw_curves(curves, "flops", flops)),
        "loss-seconds": ("Loss over seconds in steps", draw_curves(curves, "seconds")),
    }
    yield folded("over FLOPs and over time", [picture(name, title, drawn) for name, (title, drawn) in further.items()])


def _probes(subjects: Sequence[_Subject]) -> Iterator[str]:
    lines = {subject.name: subject.run.metrics().lines for subject in subjects}
    for name, drawing in draw_probes(lines):
        yield picture(f"probe-{name}", f"Probe {name} over training", drawing)


def _generations(samples: Sequence[Continuation]) -> Iterator[str]:
    for run, prompt, text in samples:
        yield f"<h3>{in_html(run)}</h3><pre><b>{in_text(prompt)}</b>{in_text(text)}</pre>"


def _recipes(subjects: Sequence[_Subject]) -> Iterator[str]:
    """What differs between the recipes, and each as a whole."""
    flat = [dict(_flat("", subject.loaded.recipe.model_dump(mode="json", by_alias=True))) for subject in subjects]
    keys = dict.fromkeys(key for one in flat for key in one)
    rows = [(key, [one.get(key, "-") for one in flat]) for key in keys]
    rows = [row for row in rows if len(set(row[1])) > 1]
    if rows:
        yield _compared(rows, _names(subjects), "what differs").html()
    for subject in subjects:
        yield folded(f"the recipe of {subject.name}", [f"<pre>{in_text(dump(subject.loaded.recipe))}</pre>"])


def _flat(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(value, dict):
        yield key, f"{value:.10g}" if isinstance(value, float) else "null" if value is None else str(value)
        return
    for name, inner in value.items():
        yield from _flat(f"{key}.{name}" if key else str(name), inner)


def _files(subjects: Sequence[_Subject]) -> TextTable:
    """What the run folders hold: files, and folders of checkpoints with what they weigh."""
    rows = []
    for subject in subjects:
        root = subject.run.path
        tops = sorted(path for path in root.iterdir() if path.name[0] != "." and path.name != "checkpoints")
        for path in (*tops, *(checkpoint.folder for checkpoint in reversed(list(subject.run.checkpoints())))):
            if not path.is_symlink():
                rows.append([str(path), format_bytes(_size(path))])
    return TextTable("", ["file", "size"], rows[:_MOST_FILES])


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file())
