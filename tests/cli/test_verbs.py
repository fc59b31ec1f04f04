"""What all verbs have in common."""

import typer.main

from hybridkit.cli import app

COMMON = {"--json", "--plugin"}


def test_every_verb_takes_plugins_and_answers_in_json() -> None:
    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # several verbs make it a group
    options = {name: {text for param in verb.params for text in param.opts} for name, verb in verbs.items()}
    assert {name for name, said in options.items() if not said >= COMMON} == set()
