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
    """A column for every model, the teacher first: loss, states and speed, beside the teacher's."""
    columns = [_figures(one, found[0]) for one in found]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    return TextTable(
        "Teacher and student, on held-out text at the own windows", ["", *(one["name"] for one in found)], rows
    )


def _figures(one: Mapping[str, Any], teacher: Mapping[str, Any]) -> dict[str, str]:
    """What was measured of a model, by its name."""
    loss, base = _text(one), _text(teacher)
    less = None if None in (loss["loss"], base["loss"]) else loss["loss"] - base["loss"]
    own, other = (one.get(key) for key in ("decode_tokens_per_second", "teacher_decode_tokens_per_second"))
    states = {int(n): one["state_bytes"].get(n, 0) for n in teacher["state_bytes"]}
    return {
        "nats a token": _number(loss["loss"], ".4f"),
        "less the teacher's": _number(less, "+z.4f"),
        "perplexity": _number(loss["perplexity"], ".3f"),
        "bits a byte": _number(loss["bits_per_byte"], ".4f"),
        **{f"state after {n:,}": format_bytes(size) for n, size in states.items()},
        "decoded tokens/s": _number(own, ",.0f"),
        "of the teacher's": f"{own / other:.2f}x" if own and other else "-",
    }


def _number(value: float | None, digits: str) -> str:
    return "-" if value is None else f"{value:{digits}}"


def _text(one: Mapping[str, Any]) -> Mapping[str, Any]:
    found = one["perplexity"].get(one["run"]) or [{}]
    return {"loss": None, "perplexity": None, "bits_per_byte": None, **found[0]}
