"""What a page says of a conversion: its stages, what every layer began with, what was measured after every stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hybridkit.convert.record import ConversionRecord, RecordedStage
from hybridkit.convert.stage_evaluation import merged_evaluations
from hybridkit.convert.stages import TRAINED, said_losses
from hybridkit.evaluation.request import EvalResult
from hybridkit.model.loading import plan
from hybridkit.recipe.record import in_words
from hybridkit.report.convert import stage_table
from hybridkit.report.eval_parts import result_parts
from hybridkit.report.heatmap import eval_pictures
from hybridkit.report.mapping import choice_table, mapping_table, named_beside
from hybridkit.report.numbers import format_duration, format_tokens
from hybridkit.report.page import TextTable, folded, paragraph
from hybridkit.report.page_picture import picture
from hybridkit.report.stage_plot import MetricLines, draw_errors, draw_stages, has_errors
from hybridkit.runs.metrics import recent_loss
from hybridkit.runs.run import Run
from hybridkit.system.errors import UserError


def conversion_parts(record: ConversionRecord, end: str = "") -> Iterator[str]:
    """The elements of a page; the names of its pictures end in `end`."""
    yield paragraph(f"Teacher: {record.teacher}.")
    runs = record.runs()
    lines = {stage.name: run.metrics().lines for stage, run in zip(record.stages, runs, strict=True)}
    yield conversion_stages(record, runs, lines).html()
    yield from _pictures(record, lines, end)
    if record.choice:
        yield choice_table(record.choice).html()
    if record.mapped.recipe_file.is_file():
        yield mapping_part(record)
    if record.evaluations:
        yield stage_table(record.evaluations).html()
        result = merged_evaluations(record.evaluations)
        yield from result_parts(result, eval_pictures(result), end)


def mapping_part(record: ConversionRecord) -> str:
    """The table of what each layer of the student began with, folded. Raises UserError where the record is damaged."""
    mapped = plan(record.mapped.recipe)
    try:
        table = mapping_table(record.layers, mapped)
    except (IndexError, ValueError) as error:
        raise UserError(f"{record.folder}: its record names layers that {mapped.pattern} does not have") from error
    rest = paragraph(f"Copied as they are: {named_beside(mapped)}.")
    return folded(table.title, [table._replace(title="").html(), rest])


def without_stages(results: Sequence[EvalResult], record: ConversionRecord | None) -> list[EvalResult]:
    """The evaluations of a run but for those that the conversion made, which its own section shows."""
    stages = {"teacher", *(one["name"] for one in record.evaluations)} if record else set()
    return [one for one in results if not (one.origins and one.origins.keys() <= stages)]


def conversion_stages(record: ConversionRecord, runs: Sequence[Run], lines: Mapping[str, MetricLines]) -> TextTable:
    """A column for each stage, a row for each fact; dashes where a stage has not begun."""
    columns = [_facts(stage, run, lines[stage.name]) for stage, run in zip(record.stages, runs, strict=True)]
    names = dict.fromkeys(name for facts in columns for name in facts)
    rows = [[name, *(facts.get(name, "-") for facts in columns)] for name in names]
    return TextTable("Stages", ["", *lines], rows)


def _facts(stage: RecordedStage, run: Run, lines: MetricLines) -> dict[str, str]:
    """What a stage is, and how far it came."""
    said = {
        "minimizes": said_losses(stage.loss, stage.top_k).removeprefix("1 "),
        "trains": TRAINED.get(stage.train, stage.train),
        "window": stage.window or "the pattern's",
    }
    if not run.recipe_file.is_file():
        return said
    recipe, steps = run.recipe.recipe, [line for line in lines if "loss" in line]
    losses = [line["loss"] for line in steps if line["loss"] is not None]
    held = [line["val_loss"] for line in lines if line.get("val_loss") is not None]
    return {
        **said,
        "sequence, batch": f"{format_tokens(recipe.data.sequence)}, {format_tokens(recipe.train.batch_tokens)} tokens",
        "learning rate": f"{recipe.train.lr:g} to {recipe.train.last_lr:.3g}, {in_words(recipe.train.schedule)}",
        "steps": f"{steps[-1]['step'] if steps else 0:,} of {recipe.train.steps:,}",
        "tokens": f"{steps[-1].get('tokens') or 0 if steps else 0:,}",
        "its loss at first": _figure(losses[0] if losses else None),
        "its loss at the end": _figure(recent_loss(losses)),
        "last validation loss, nats a token": _figure(held[-1] if held else None),
        "time in steps": format_duration(sum(line.get("seconds") or 0 for line in steps)),
    }


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _pictures(record: ConversionRecord, lines: Mapping[str, MetricLines], end: str) -> Iterator[str]:
    measured = {one["name"]: (one["perplexity"].get(one["run"]) or [{}])[0].get("loss") for one in record.evaluations}
    known = {name: loss for name, loss in measured.items() if loss is not None}
    if known or any("val_loss" in line for of_stage in lines.values() for line in of_stage):
        title = "Loss on held-out text: of all of it after each stage, and of its first tokens at validations"
        yield picture(f"stages{end}", title, draw_stages(lines, known))
    for name, of_stage in lines.items():
        if has_errors(of_stage):
            title = f"Error of each new mixer in {name}: squared, over that of a mixer that adds nothing"
            yield picture(f"errors-{name}{end}", title, draw_errors(of_stage))
