"""The plug-ins that a run is trained with, of every kind."""

from __future__ import annotations

from collections.abc import Iterable

from hybridkit.block import Entry
from hybridkit.data.named import read_named
from hybridkit.data.source import SOURCE
from hybridkit.data.tokenizer import TOKENIZER
from hybridkit.recipe.schema import Recipe
from hybridkit.registry.registry import Registry
from hybridkit.runs.plugin_copies import code_of
from hybridkit.training.engine import engine_of
from hybridkit.training.logger import loggers_of
from hybridkit.training.optimizer import optimizer_of
from hybridkit.training.schedule import schedule_of


def training_code(entries: Iterable[Entry], recipe: Recipe, registry: Registry) -> dict[str, bytes]:
    """The files of the plug-ins of a stack's entries, and of what else `recipe` names: engine, optimizer, sources, ...

    Content by name in `plugins/`, as `runs.plugin_copies.code_of` gives it. Reads no text and no tokenizer.
    """
    sources = (read_named(SOURCE, text, registry) for text in recipe.data.texts)
    named = (*sources, read_named(TOKENIZER, recipe.data.tokenizer, registry))
    train = recipe.train
    parts = [of(train, registry) for of in (engine_of, optimizer_of, schedule_of)]
    return code_of(entries, *parts, *loggers_of(train, registry), *filter(None, named))
