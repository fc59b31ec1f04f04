"""`hybridkit doctor`: what works here."""

from hybridkit.cli.options import Json, Plugins
from hybridkit.strict_json import format_json
from hybridkit.terminal import say


def doctor(as_json: Json = False, plugin: Plugins = []) -> None:
    """Say what is installed, which kernel each block will use on this machine, and why."""
    from hybridkit.doctor import examine

    found = examine()
    if as_json:
        say(format_json(found))
        return
    from hybridkit.report.show import print_doctor

    print_doctor(found)
