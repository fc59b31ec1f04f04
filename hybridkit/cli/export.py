"""`hybridkit export`: a run's weights and sizes for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from hybridkit.cli.options import Json, Plugins, RunFolder
from hybridkit.system.strict_json import format_json
from hybridkit.system.terminal import say


def export(
    run: RunFolder,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    family: Annotated[str, typer.Option("--format", metavar="NAME", help="Format of the folder.")] = "hybridkit",
    as_json: Json = False,
    plugin: Plugins = [],
) -> None:
    """Write a run's newest weights as safetensors, with its configuration and tokenizer as JSON."""
    from hybridkit.hub.export import export_run as write

    files = [str(path) for path in write(run, folder, family)]
    say(format_json({"files": files}) if as_json else "\n".join(files))
