"""`hybridkit blocks`: what patterns may name."""

from hybridkit.cli.options import Json, Plugins
from hybridkit.system.strict_json import format_json
from hybridkit.system.terminal import say


def blocks(as_json: Json = False, plugin: Plugins = []) -> None:
    """List the blocks and window policies that patterns may name, with their arguments."""
    from hybridkit.registry.registry import REGISTRY

    rows = REGISTRY.listing()
    if as_json:
        say(format_json({"blocks": [row._asdict() for row in rows]}))
        return
    from hybridkit.report.show import print_blocks

    print_blocks(rows)
