"""`hybridkit doctor`: what works here."""

from hybridkit.cli.options import Json, Plugins
from hybridkit.system.strict_json import format_json
from hybridkit.system.terminal import say


def doctor(as_json: Json = False, plugin: Plugins = []) -> None:
    """Show what is installed, which kernel each block uses on this machine, and why."""
    from hybridkit.bench.doctor import examine

    found = examine()
    if as_json:
        say(format_json(found))
        return
    from hybridkit.report.show import print_doctor

    print_doctor(found)
