"""`hybridkit import`: a checkpoint of transformers becomes a run."""

from pathlib import Path
from typing import Annotated

import typer

from hybridkit.cli.options import Json, Plugins
from hybridkit.system.strict_json import format_json
from hybridkit.system.terminal import say


def import_(
    source: Annotated[str, typer.Argument(metavar="DIR", help="A folder, or NAME/NAME on the Hugging Face Hub.")],
    run: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The new run folder; by default runs/<name of the folder>.")
    ] = None,
    as_json: Json = False,
    plugin: Plugins = [],
) -> None:
    """Make a run of a transformers checkpoint: recipe, tokenizer and weights, which all other verbs take."""
    from hybridkit.hub.importing import import_folder
    from hybridkit.hub.repository import local_folder

    folder = local_folder(source)
    made = import_folder(folder, run or Path("runs", Path(source).resolve().name))
    if as_json:
        say(format_json({"run": str(made.run), "family": made.family, "pattern": made.pattern, "notes": made.notes}))
        return
    say(f"{made.run}: {made.family}, {made.tensors} tensors, pattern: {made.pattern}")
    for note in made.notes:
        say(f"note: {note}")
