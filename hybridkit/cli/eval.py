"""`hybridkit eval`: what runs remember."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from hybridkit.cli.options import Average, CheckpointName, Json, Plugins
from hybridkit.evaluation.request import RULER_LENGTHS
from hybridkit.system.choices import DeviceChoice, PrecisionChoice, Scoring
from hybridkit.system.errors import Interrupted, UserError
from hybridkit.system.folders import explain
from hybridkit.system.strict_json import format_json
from hybridkit.system.terminal import say

if TYPE_CHECKING:  # imported when the verb runs
    from hybridkit.evaluation.cut import Held
    from hybridkit.evaluation.request import EvalRequest, EvalResult

_Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, as `hybridkit train` writes them.")]
_Text = Annotated[bool, typer.Option(help="Held-out perplexity, and the loss by position.")]
_Other = Annotated[
    list[str],
    typer.Option(
        "--text", metavar="FILE", help="A text file, folder or glob to read in place of the held-out text; repeatable."
    ),
]
_Context = Annotated[
    str, typer.Option(metavar="N", help="Tokens of a row for the loss by position; default: 16 training sequences.")
]
_Needles = Annotated[
    str, typer.Option(metavar="TASK[,TASK...]", help="RULER's needle tasks, groups of them (niah_single), or all.")
]
_Lengths = Annotated[
    str, typer.Option(metavar="N[,N...]", help=f"Of the needle tasks' prompts; default: {RULER_LENGTHS}.")
]
_Windows = Annotated[str, typer.Option(metavar="W[,W...]", help="Windows at test time; default: each block's largest.")]
_Samples = Annotated[int, typer.Option(min=1, help="Of each needle or recall cell.")]
_Seed = Annotated[int, typer.Option(help="Of the samples.")]
_Score = Annotated[
    Scoring, typer.Option(help="RULER's, of generated answers; or the likelihood of the right one, for tiny models.")
]
_Haystack = Annotated[
    Path | None, typer.Option(metavar="PATH", help="A text file or folder for the essays; default: Python's reference.")
]
_Recall = Annotated[
    str, typer.Option(metavar="N[,N...]", help="Recall over gaps of N tokens, of runs on `source: recall(...)`.")
]
_Ablate = Annotated[
    list[str], typer.Option(metavar="BLOCK", help="Ask again with the output of these blocks zeroed; repeatable.")
]
_Reset = Annotated[
    str,
    typer.Option(
        metavar="N[,N...]", help="Ask again with recurrent states that begin anew N tokens before the answer."
    ),
]
_Evict = Annotated[
    str, typer.Option(metavar="N[,N...]", help="Ask again with keys and values dropped N tokens before the answer.")
]
_Tasks = Annotated[str, typer.Option(metavar="TASK[,TASK...]", help="Tasks of lm-evaluation-harness.")]
_Include = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Task files for --tasks, in place of the harness's own.")
]
_Limit = Annotated[int | None, typer.Option(min=1, help="Documents of each harness task.")]
_Batch = Annotated[int, typer.Option(min=1, help="Prompts read together.")]
_Chunk = Annotated[int, typer.Option(min=1, help="Tokens read at once.")]
_Device = Annotated[DeviceChoice, typer.Option(help="Where the model runs.")]
_Precision = Annotated[
    PrecisionChoice | None, typer.Option(help="In which the model computes; default: as its weights were saved.")
]
_Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Of the report; default: the first run's eval/.")]


def eval(
    runs: _Runs,
    perplexity: _Text = True,
    text: _Other = [],
    context: _Context = "",
    needles: _Needles = "",
    lengths: _Lengths = "",
    windows: _Windows = "",
    samples: _Samples = 500,
    seed: _Seed = 42,
    score: _Score = "ruler",
    haystack: _Haystack = None,
    recall: _Recall = "",
    ablate: _Ablate = [],
    reset_state: _Reset = "",
    evict: _Evict = "",
    tasks: _Tasks = "",
    include: _Include = None,
    limit: _Limit = None,
    batch: _Batch = 8,
    chunk: _Chunk = 2048,
    device: _Device = "auto",
    precision: _Precision = None,
    out: _Out = None,
    average: Average = False,
    checkpoint: CheckpointName = None,
    as_json: Json = False,
    plugin: Plugins = [],
) -> None:
    """Measure what runs remember: perplexity, loss by position, needles over lengths and windows, recall, the harness.

    A report, its pictures and every sample are written; needles that were answered before are not asked again.
    """
    from hybridkit.evaluation.words import read_request

    request = read_request(
        perplexity=perplexity, texts=tuple(dict.fromkeys(text)), context=context, needles=needles, lengths=lengths,
        windows=windows, recall=recall, tasks=tasks, samples=samples, seed=seed, scoring=score, haystack=haystack,
        batch=batch, chunk=chunk, device=device, precision=precision, average=average, include=include, limit=limit,
    )  # fmt: skip
    _check(request, out, runs)
    with _interruptible(), contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        result = _ask(runs, ablate, _cuts(reset_state, evict), request, checkpoint)
    _report(result, out or runs[0] / "eval", as_json)


def _refuse_links(runs: Sequence[Path], out: Path | None) -> None:
    """Nothing is written through a symbolic link. Raises UserError."""
    from hybridkit.system.links import refuse_links

    for folder in (*(run / "eval" for run in runs), *([out] if out else ())):
        refuse_links((*(() if folder == out else (folder,)), *folder.rglob("*")))


def _cuts(reset_state: str, evict: str) -> dict[Held, tuple[int, ...]]:
    """The distances of `--reset-state` and `--evict`."""
    from hybridkit.evaluation.words import read_sizes

    return {"state": read_sizes("--reset-state", reset_state), "cache": read_sizes("--evict", evict)}


def _check(request: EvalRequest, out: Path | None, runs: Sequence[Path]) -> None:
    """Raises UserError for places that are not written to or read."""
    if out and out.exists() and not out.is_dir():
        raise UserError(f"--out {explain(out, 'a folder')}")
    if out and (file := next((one for one in out.parents if one.is_file()), None)):
        raise UserError(f"--out {out}: {explain(file, 'a folder')}")
    if request.include and not request.include.is_dir():
        raise UserError(f"--include {request.include}: no such folder")
    _refuse_links(runs, out)


def _ask(
    runs: list[Path],
    ablate: list[str],
    cuts: Mapping[Held, Sequence[int]],
    request: EvalRequest,
    checkpoint: str | None,
) -> EvalResult:
    if request.harness:
        import hybridkit.evaluation.harness  # noqa: F401  # a missing extra answers before anything is computed
    from hybridkit.evaluation.runner import Evaluator
    from hybridkit.evaluation.target import open_changed_targets
    from hybridkit.report.progress import watching

    changes = dict.fromkeys(ablate), cuts
    targets = [
        target for path in dict.fromkeys(runs) for target in open_changed_targets(path, request, checkpoint, *changes)
    ]
    with watching() as watch:
        return Evaluator(targets, request, watch).run_all()


def _report(result: EvalResult, folder: Path, as_json: bool) -> None:
    from hybridkit.report.eval_page import write_report
    from hybridkit.report.eval_tables import print_eval_result

    written = write_report(result, folder)
    if as_json:
        for note in result.notes:
            say(f"hybridkit: {note}", file=sys.stderr)
        say(format_json(result.to_json()))
        return
    print_eval_result(result)
    say(f"report: {written}")


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM end the verb with their own exit codes; what was answered until then is kept."""

    def stop(number: int, frame: object) -> NoReturn:
        raise Interrupted("evaluation stopped; the same command goes on with the needles that are left", number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
