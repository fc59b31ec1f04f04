"""Options and arguments that several verbs share."""

from pathlib import Path
from typing import Annotated

import typer

from hybridkit.system.errors import UserError

MAX_TOKENS = 1 << 40  # tokens of a context or window


def _add_plugins(files: list[Path]) -> list[Path]:
    if files:
        from hybridkit.registry.plugin import plugin_path
        from hybridkit.registry.plugin_package import sha256
        from hybridkit.registry.registry import REGISTRY
        from hybridkit.registry.trust import trust

        for file in files:
            trust(sha256(plugin_path(file).read_bytes()), file)  # a file named on the command line is trusted
            REGISTRY.add(file, named=True)
    return files


Plugins = Annotated[
    list[Path],
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        callback=_add_plugins,
        is_eager=True,
        help="A Python file with one class that recipes may name, such as a block; named like the file; repeatable.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else there.")]
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped one.")]
Overrides = Annotated[
    list[str],
    typer.Argument(metavar="KEY=VALUE", help="Changes to the recipe: train.lr=1e-3 'pattern=[sa]*4'."),
]
CheckpointName = Annotated[
    str | None, typer.Option("--checkpoint", metavar="STEP|best|newest", help="Of the run; default: the newest.")
]
Average = Annotated[bool, typer.Option("--average", help="The running mean of the weights (train.ema) in their place.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, as `hybridkit train` writes it.")]


def size_option(option: str, text: str) -> int:
    """A positive size such as 128, 16k or 1M. Raises UserError."""
    from hybridkit.recipe.schema import read_size

    try:
        size = read_size(text.strip())
    except ValueError as error:
        raise UserError(f"{option} {text}: {error}") from None
    if not 1 <= size <= MAX_TOKENS:
        raise UserError(f"{option} {text}: should be at least 1 and at most {MAX_TOKENS}")
    return size
