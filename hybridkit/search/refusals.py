"""What a space file says to no effect. A new study refuses it; reports of older ones, which accepted it, are read."""

from __future__ import annotations

from collections.abc import Iterator

from hybridkit.search.definition import Definition
from hybridkit.search.schema import SEED
from hybridkit.system.errors import UserError


def refuse_ignored(definition: Definition) -> None:
    """Raise UserError for a variable that a setting overwrites, and for settings that do not go together."""
    trial, fields = definition.file.trial, definition.space.fields
    for field, setting in _determined(definition):
        if field in fields:
            place = definition.where("space", field)
            raise UserError(f"{place}: space.{field}: {setting} determines {field}; leave one of the two out")
    if trial.windows and not trial.questions:
        raise UserError(
            f"{definition.where('trial', 'windows')}: trial.windows: are those of trial.evaluate, which is not given"
        )
    if definition.file.compare and trial.seeds > 1 and SEED in fields:
        raise UserError(
            f"{definition.where('trial', 'seeds')}: trial.seeds: {trial.seeds} runs from each {SEED} of the space would"
            " be compared twice; leave trial.seeds out, and give all seeds in the space"
        )


def _determined(definition: Definition) -> Iterator[tuple[str, str]]:
    """Fields that a setting of the file determines, each with that setting."""
    for name in ("tokens", "flops"):
        if getattr(definition.file.trial, name):
            yield "train.steps", f"trial.{name}"
    if definition.measure:
        yield "model.width", "match"
