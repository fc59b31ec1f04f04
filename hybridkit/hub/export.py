"""A run for other programs: a folder in the format of a family, with a model card."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import torch

from hybridkit.hub.card import card, padding_note
from hybridkit.hub.family import FAMILY, CannotSay, Family
from hybridkit.model.loading import load_model
from hybridkit.model.plan import Plan
from hybridkit.registry.registry import REGISTRY
from hybridkit.runs.run import Run, Which
from hybridkit.system.errors import UserError
from hybridkit.system.files import whole_folder

HF = "hf"  # `--format hf`: the family that says the stack exactly, of those with a preference
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}


class Exported(NamedTuple):
    """What an export wrote: its files, the family, and why classes that are preferred to it could not say the stack."""

    files: list[Path]
    family: str
    reasons: dict[str, str]
    note: str | None  # what to know of the folder


def export_run(
    run: Path,
    folder: Path,
    format: str = HF,
    dtype: str | None = None,
    checkpoint: Which = None,
    average: bool = False,
) -> Exported:
    """Write the weights of a run's checkpoint (`Run.chosen`), or their running mean (`train.ema`), to a new folder.

    Raises UserError where the folder exists already, the run has no valid checkpoint, or the format is not known or
    cannot say the stack.
    """
    if os.path.lexists(folder):
        raise UserError(f"{folder} exists; name a new folder")
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"--dtype {dtype}: should be one of {', '.join(DTYPES)}")
    known = [HF, *REGISTRY.names(FAMILY)]
    if format not in known:
        REGISTRY.get(FAMILY, format)  # says what is known, and what is near
    model = load_model(run, checkpoint, average)
    source = Run(run, checkpoint)
    family, reasons = choose_family(model.plan, format)
    try:
        with whole_folder(folder) as part:
            family.export(model, source, part, DTYPES[dtype] if dtype else None)
            (part / "README.md").write_text(card(source, model, family, folder.name, average), encoding="utf-8")
    except CannotSay as error:
        raise UserError(f"--format {format}: {error}") from error
    return Exported(
        sorted(path for path in folder.rglob("*") if path.is_file()), family.name(), reasons, padding_note(family)
    )


def choose_family(plan: Plan, format: str = HF) -> tuple[Family, dict[str, str]]:
    """The family of a format, checked, and why those before it cannot say the plan. Raises UserError."""
    families: list[Family] = [REGISTRY.get(FAMILY, name)() for name in REGISTRY.names(FAMILY)]
    preferred = sorted((one for one in families if one.preference is not None), key=lambda one: one.preference or 0)
    chosen = preferred if format == HF else [one for one in families if one.name() == format]
    reasons: dict[str, str] = {}
    for family in chosen:
        try:
            family.check(plan)
        except CannotSay as error:
            reasons[family.name()] = str(error)
        else:
            return family, reasons
    said = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    raise UserError(f"--format {format} cannot say {plan.pattern}: {said}")
