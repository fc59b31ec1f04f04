"""A conversion in the terminal: what was measured of the teacher, and of the student after every stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hybridkit.convert.stage_evaluation import merged_evaluations
from hybridkit.evaluation.request import EvalResult
from hybridkit.report.console import Console
from hybridkit.report.eval_tables import print_eval_result
from hybridkit.report.numbers import format_bytes
from hybridkit.report.page import TextTable, print_table


def print_conversion(found: Sequence[Mapping[str, Any]]) -> None:
    """The teacher beside the student after every stage, then what they recall; evaluations hold more."""
    print_table(Console(), stage_table(found))
    result = merged_evaluations(found)
    print_eval_result(EvalResult(result.settings, result.trained, cells=result.cells, notes=result.notes))


def stage_table(found: Sequence[Mapping[str, Any]]) -> TextTable:
    """Loss, states and speed of every model against the teacher's, which comes first."""
    teacher, contexts = found[0], list(found[0]["state_bytes"])
    columns = ["stage", "nats a token", "less the teacher's", "perplexity", "bits a byte"]
    columns += [f"state after {int(n):,}" for n in contexts] + ["decoded tokens/s", "of the teacher's"]
    rows = []
    for one in found:
        loss, base = _text(one), _text(teacher)
        less = None if None in (loss["loss"], base["loss"]) else loss["loss"] - base["loss"]
        shown = (loss["loss"], ".4f"), (less, "+z.4f"), (loss["perplexity"], ".3f"), (loss["bits_per_byte"], ".4f")
        figures = ["-" if value is None else f"{value:{digits}}" for value, digits in shown]
        sizes = [format_bytes(one["state_bytes"].get(n, 0)) for n in contexts]
        own, other = (one.get(key) for key in ("decode_tokens_per_second", "teacher_decode_tokens_per_second"))
        speed = [f"{own:,.0f}", f"{own / other:.2f}x"] if own and other else ["-", "-"]
        rows.append([one["name"], *figures, *sizes, *speed])
    return TextTable("Teacher and student, on held-out text at the own windows", columns, rows)


def _text(one: Mapping[str, Any]) -> Mapping[str, Any]:
    found = one["perplexity"].get(one["run"]) or [{}]
    return {"loss": None, "perplexity": None, "bits_per_byte": None, **found[0]}
