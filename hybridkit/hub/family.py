"""The kind "family": formats of models on disk. One file of `hub/families/`, or a plug-in, holds one class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from hybridkit.model.model import Model
from hybridkit.registry.kinds import Kind

FAMILY = Kind("family", "hybridkit.hub.families")


class Family(ABC):
    """A format in which models are written."""

    kind: ClassVar[str] = FAMILY.name

    @abstractmethod
    def export(self, model: Model, folder: Path) -> None:
        """Write the model, with its tokenizer, into an empty folder. Raises UserError for one it cannot say."""
