"""The kind "family": formats of models in a folder. One file of `hub/families/`, or a plug-in, holds one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch

from hybridkit.hub.fields import Fields
from hybridkit.hub.weight_rules import Rule
from hybridkit.model.model import Model
from hybridkit.model.plan import Plan
from hybridkit.registry.kinds import Kind
from hybridkit.runs.run import Run

FAMILY = Kind("family", "hybridkit.hub.families")
HINT = "hybridkit"  # field of config.json that holds the pattern with its window policies
MOST_LAYERS = 4096  # of a checkpoint, as of a pattern


class CannotSay(ValueError):
    """A family has no words for a stack; the message says for what."""


class Described(NamedTuple):
    """What a config.json says: the pattern's calls in order, and fields of a recipe's `model:` section."""

    calls: list[str]
    model: dict[str, Any]


class Family(ABC):
    """A format of folders. `preference`: `--format hf` takes the lowest that can say the stack; None: only by name."""

    kind: ClassVar[str] = FAMILY.name
    preference: ClassVar[int | None] = None
    head: ClassVar[str] = "lm_head.weight"  # their name of the head's weight
    opened_by: ClassVar[str] = ""  # lines of Python for the model card, with {folder}
    reads_padding: ClassVar[str] = ""  # what of their class reads the padding that an attention_mask hides, if any

    @classmethod
    def name(cls) -> str:
        """The name of the file that the class stands in."""
        return cls.__module__.rpartition(".")[2]

    @abstractmethod
    def check(self, plan: Plan) -> None:
        """Raises CannotSay where the format cannot say exactly what the plan computes."""

    @abstractmethod
    def export(self, model: Model, run: Run, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write the model of a run, with its tokenizer, into an empty folder. `dtype` None: the weights' own.

        Raises CannotSay as `check` does.
        """

    def reads(self, config: dict[str, Any]) -> bool:
        """Whether a config.json is of this family."""
        return False

    def describe(self, fields: Fields) -> Described:
        """What a config.json of this family says. Raises UserError for a field that our blocks cannot honour."""
        raise NotImplementedError

    def decoding_fault(self, plan: Plan) -> str | None:
        """Why their program, decoding with a cache, computes another function than the plan; None where it does not."""
        return None

    def rules(self, plan: Plan) -> list[Rule]:
        """How our weights and theirs correspond; each of ours stands in exactly one rule."""
        raise NotImplementedError

    def as_stored(self, rules: list[Rule], names: Collection[str]) -> list[Rule]:
        """The rules for files that hold tensors of these names, where a family's files differ from each other."""
        return rules

    def says_alike(self, plan: Plan, other: Plan) -> bool:
        """Whether a folder of the one plan is a folder of the other, to the letter."""
        return False

    def carries_nothing(self, name: str) -> bool:
        """Whether a tensor in their files is computed from the config, such as a table of angles."""
        return name.endswith("rotary_emb.inv_freq")
