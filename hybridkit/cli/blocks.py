"""`hybridkit blocks`: what patterns, and with `--all` recipes, may name."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from hybridkit.cli.options import Json, Plugins
from hybridkit.system.strict_json import format_json
from hybridkit.system.terminal import say

if TYPE_CHECKING:
    from hybridkit.registry.kinds import Kind


def blocks(
    everything: Annotated[
        bool, typer.Option("--all", help="List the other kinds, too: optimizers, sources, ...")
    ] = False,
    as_json: Json = False,
    plugin: Plugins = [],
) -> None:
    """List the blocks and window policies that patterns may name, with their arguments."""
    from hybridkit.registry.registry import REGISTRY

    rows = REGISTRY.listing(*(every_kind() if everything else ()))
    if as_json:
        say(format_json({"blocks": [row._asdict() for row in rows]}))
        return
    from hybridkit.report.show import print_blocks

    print_blocks(rows)


def every_kind() -> Iterator[Kind]:
    """All kinds that recipes, patterns and commands may name; samplers only where the extra `search` is installed."""
    from hybridkit.data.source import SOURCE
    from hybridkit.data.tokenizer import TOKENIZER
    from hybridkit.evaluation.task import TASK
    from hybridkit.hub.family import FAMILY
    from hybridkit.recipe.choices import ENGINE, LOGGER, OPTIMIZER, SCHEDULE
    from hybridkit.registry.kinds import BLOCK, WINDOW
    from hybridkit.search.schema import PRUNER, SAMPLER

    yield from (BLOCK, WINDOW, OPTIMIZER, SCHEDULE, ENGINE, LOGGER, SOURCE, TOKENIZER, TASK, FAMILY, PRUNER)
    if find_spec("optuna"):
        yield SAMPLER
