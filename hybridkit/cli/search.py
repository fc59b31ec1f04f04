"""`hybridkit search`: search patterns under a budget, and show the results."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hybridkit.cli.options import Json, Plugins
from hybridkit.system.errors import UserError, nearest
from hybridkit.system.strict_json import format_json
from hybridkit.system.terminal import say

if TYPE_CHECKING:
    from hybridkit.recipe.schema import Recipe
    from hybridkit.search.reader import StudyReader
    from hybridkit.search.trials import Trial

WORDS = ("report", "best")


def search(
    what: Annotated[
        list[str], typer.Argument(metavar="SPACE | report STUDY | best STUDY", help="A space file, or a study folder.")
    ],
    workers: Annotated[int, typer.Option(min=1, max=1024, help="Trials that run at the same time.")] = 1,
    study: Annotated[
        Path | None, typer.Option(help="The study's folder; default: studies/ and the space's name.")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(metavar="URL", help="An optuna storage, for many machines; default: a file. Give it every time."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the study in the folder.")] = False,
    as_json: Json = False,
    plugin: Plugins = [],
) -> None:
    """Search a space of patterns under a budget, each trial an ordinary run; then report on it, or print its best."""
    if len(what) == 1 and what[0] not in WORDS:
        _search(_find(what[0]), study, storage, resume, workers, as_json, plugin)
    elif len(what) == 2 and what[0] == "report":
        _report(Path(what[1]), storage, as_json)
    elif len(what) == 2 and what[0] == "best":
        _best(Path(what[1]), storage, as_json)
    else:
        close = nearest(what[0], WORDS) if len(what) == 2 else None
        hint = f"did you mean `search {close} {what[1]}`?" if close else "search report STUDY, or search best STUDY"
        raise UserError(f"search {' '.join(what)}: search takes a space file, or a word and a study: {hint}")


def _find(name: str) -> Path:
    from hybridkit.recipe.files import find_recipe

    return find_recipe(name)


def _search(
    space: Path, folder: Path | None, storage: str | None, resume: bool, workers: int, as_json: bool, plugin: list[Path]
) -> None:
    from hybridkit.recipe.files import run_name
    from hybridkit.search.definition import SPACE, read_definition
    from hybridkit.search.folder import holds_study

    if holds_study(space):
        raise UserError(
            f"{space} is a study's folder: `hybridkit search {space / SPACE} --study {space} --resume` continues "
            f"it, `hybridkit search report {space}` shows what it found"
        )
    definition = read_definition(space)  # before torch is imported, so that a mistake in a space is reported at once
    for arguments in definition.file.trial.questions:
        _check_arguments(definition.where("trial", "evaluate"), arguments)
    folder = folder or Path("studies") / run_name(space)
    from hybridkit.search import study as studies

    begun = holds_study(folder)
    if begun and not resume:
        raise UserError(f"{folder} holds a study; continue it with --resume, or name another folder with --study")
    opened = (studies.resume if begun else studies.create)(definition, folder, storage)
    from hybridkit.report.search import LiveTable
    from hybridkit.search.scheduler import run_search
    from hybridkit.search.trials import all_failed
    from hybridkit.system.errors import Failure

    with LiveTable(workers) as table:
        if resume and not begun:
            table.message(f"{folder} holds no study yet; beginning one")
        if trials := opened.trials_without_origin:
            table.message(
                f"trials {', '.join(map(str, trials))} are of an older version, which did not record text and plug-ins:"
                " it cannot be verified that they compare with new ones"
            )
        run_search(opened, workers, table, plugin)
    _print(folder, storage, as_json)
    if failed := all_failed(opened.trials()):
        raise Failure(f"{folder}: {failed}")


def _check_arguments(place: str, arguments: str) -> None:
    """Raise UserError for arguments that `hybridkit eval` refuses, before anything is trained."""
    from hybridkit.cli import verbs

    group = typer.main.get_command(verbs(["eval"]))
    command = group.commands["eval"]  # type: ignore[attr-defined]  # a group has them
    try:
        command.make_context("eval", ["RUN", *shlex.split(arguments)])
    except Exception as error:  # of click, or of the copy of click in some versions of typer
        raise UserError(f"{place}: trial.evaluate: {error}") from None


def _print(folder: Path, storage: str | None, as_json: bool) -> None:
    from hybridkit.report.search import print_results
    from hybridkit.search.compare import comparison
    from hybridkit.search.reader import open_reader
    from hybridkit.search.results import results

    opened = open_reader(folder, storage)
    found = results(opened)
    say(format_json(_json(opened))) if as_json else print_results(found, comparison(opened))


def _json(study: StudyReader) -> dict[str, Any]:
    """The results of a study, and what it compares."""
    from hybridkit.search.compare import comparison, comparison_json
    from hybridkit.search.results import results, results_json

    compared = comparison(study)
    return results_json(results(study)) | ({"compare": comparison_json(compared)} if compared else {})


def _report(folder: Path, storage: str | None, as_json: bool) -> None:
    from hybridkit.report.search_pages import write_pages
    from hybridkit.search.reader import open_reader

    opened = open_reader(folder, storage)
    pages = write_pages(opened)
    if as_json:
        say(format_json({**_json(opened), "pages": [str(page) for page in pages]}))
        return
    for page in pages:
        say(page)


def _best(folder: Path, storage: str | None, as_json: bool) -> None:
    from hybridkit.recipe.files import dump
    from hybridkit.search.reader import open_reader
    from hybridkit.search.results import results
    from hybridkit.system.errors import Failure

    opened = open_reader(folder, storage)
    found = results(opened)
    if found.best is None:
        raise Failure(f"{folder}: no trial is finished yet")
    row, recipe = found.best, _recipe(opened, found.best.trial)
    objectives = dict(zip(found.objectives, row.means, strict=True))
    if as_json:
        fields = recipe.model_dump(mode="json", by_alias=True)
        say(format_json({"trial": row.trial.number, "objectives": objectives, "recipe": fields}))
        return
    say(f"# trial {row.trial.number} of {folder}: " + ", ".join(f"{k} {v:.5g}" for k, v in objectives.items()))
    say(dump(recipe), end="")


def _recipe(study: StudyReader, trial: Trial) -> Recipe:
    """The recipe of a trial. Only `match` and `trial.flops`, which ask for costs, need blocks, and with them torch."""
    from hybridkit.search.definition import chosen_recipe

    if not study.definition.needs_costs:
        return chosen_recipe(study.definition, trial.params).recipe
    from hybridkit.search.candidate import CandidateFactory

    return CandidateFactory(study.definition).make(trial.params).loaded.recipe
