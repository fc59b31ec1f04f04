"""`hybridkit report`: one page that says what runs or a study are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybridkit.cli.options import CheckpointName, Json, Plugins
from hybridkit.system.errors import UserError
from hybridkit.system.strict_json import format_json
from hybridkit.system.terminal import say

if TYPE_CHECKING:
    from hybridkit.report.run_page import Continuation

TOKENS = 120  # of a sample


def report(
    what: Annotated[
        list[Path], typer.Argument(metavar="RUN... | STUDY", help="Run folders, or the folder of a study.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="The page; default: report.html in the first run's folder.")
    ] = None,
    prompt: Annotated[
        list[str], typer.Option(metavar="TEXT", help="Show how each run goes on with this text; repeatable.")
    ] = [],
    checkpoint: CheckpointName = None,
    storage: Annotated[
        str | None, typer.Option(metavar="URL", help="The study's storage, where it is outside.")
    ] = None,
    as_json: Json = False,
    plugin: Plugins = [],
) -> None:
    """Write one page that needs no other file: what runs are, cost, learned and remember, or what a study found."""
    from hybridkit.search.folder import holds_study

    if len(what) == 1 and holds_study(what[0]):
        if out or prompt or checkpoint:
            raise UserError(
                f"{what[0]} is a study, whose pages are in its folder report/; leave --out, --prompt, --checkpoint out"
            )
        pages = _study(what[0], storage)
    else:
        if storage:
            raise UserError("--storage is for a study")
        if checkpoint and not prompt:
            raise UserError("--checkpoint is of what goes on with --prompt; name one")
        if out and out.suffix != ".html":
            raise UserError(f"--out {out}: the name must end in .html")
        pages = [_runs(list(dict.fromkeys(what)), out or what[0] / "report.html", prompt, checkpoint)]
    if as_json:
        say(format_json({"pages": [str(page) for page in pages]}))
        return
    for page in pages:
        say(page)


def _study(folder: Path, storage: str | None) -> list[Path]:
    from hybridkit.report.search_pages import write_pages
    from hybridkit.search.reader import open_reader

    return write_pages(open_reader(folder, storage))


def _runs(runs: list[Path], file: Path, prompts: list[str], checkpoint: str | None) -> Path:
    from hybridkit.runs.run import Run

    for run in runs:
        Run(run).check_exists()
    if file.is_dir() or not file.parent.is_dir():
        raise UserError(f"{file}: cannot be written; name a file in a folder that there is")
    from hybridkit.report.run_page import write_run_page

    return write_run_page(runs, file, _samples(runs, prompts, checkpoint) if prompts else [])


def _samples(runs: list[Path], prompts: list[str], checkpoint: str | None) -> list[Continuation]:
    """How each run goes on with each prompt; the seed is always the same."""
    from hybridkit.inference.sampling import Sampling
    from hybridkit.inference.streaming import Writer
    from hybridkit.model.loading import load_model

    samples = []
    for run in runs:
        writer = Writer(load_model(run, checkpoint), Sampling(temperature=0.8, seed=0), TOKENS)
        for prompt in prompts:
            samples.append((str(run), prompt, writer.texts(writer.read([prompt]))[0]))
    return samples
