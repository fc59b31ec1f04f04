"""`hybridkit blocks`: what patterns, and with `--all` recipes, may name."""

from typing import Annotated

import typer

from hybridkit.cli.options import Json, Plugins
from hybridkit.system.strict_json import format_json
from hybridkit.system.terminal import say


def blocks(
    everything: Annotated[bool, typer.Option("--all", help="List optimizers and engines, too.")] = False,
    as_json: Json = False,
    plugin: Plugins = [],
) -> None:
    """List the blocks and window policies that patterns may name, with their arguments."""
    from hybridkit.recipe.choices import ENGINE, OPTIMIZER
    from hybridkit.registry.kinds import BLOCK, WINDOW
    from hybridkit.registry.registry import REGISTRY

    rows = REGISTRY.listing(BLOCK, WINDOW, *((OPTIMIZER, ENGINE) if everything else ()))
    if as_json:
        say(format_json({"blocks": [row._asdict() for row in rows]}))
        return
    from hybridkit.report.show import print_blocks

    print_blocks(rows)
