"""What all verbs have in common."""

import json

import typer.main
from typer.testing import CliRunner

from hybridkit.cli import verbs

COMMON = {"--json", "--plugin"}


def test_every_verb_takes_plugins_and_answers_in_json() -> None:
    found = typer.main.get_command(verbs()).commands  # type: ignore[attr-defined]  # several verbs make it a group
    options = {name: {text for param in verb.params for text in param.opts} for name, verb in found.items()}
    assert {name for name, said in options.items() if not said >= COMMON} == set()


def test_blocks_lists_every_kind_that_a_recipe_may_name() -> None:
    done = CliRunner().invoke(verbs(), ["blocks", "--all", "--json"])
    kinds = {row["kind"] for row in json.loads(done.stdout)["blocks"]}
    recipes = {"block", "window", "optimizer", "schedule", "engine", "source", "tokenizer", "task", "family", "logger"}
    assert done.exit_code == 0 and recipes <= kinds <= recipes | {"sampler", "pruner"}
