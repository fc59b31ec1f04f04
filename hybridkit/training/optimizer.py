"""What a recipe says of an optimizer: a file in training/optimizers/, or a plug-in, with one class that builds it.

Nothing here imports torch: a mistake in a recipe is told at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from hybridkit.recipe.choices import OPTIMIZER, chosen
from hybridkit.recipe.schema import Section, Train
from hybridkit.registry.registry import REGISTRY, Registry

if TYPE_CHECKING:
    from torch import optim


class Optimizer(Section, ABC):
    """An optimizer and its own fields, which a recipe sets with `train.optimizer: {name: ..., field: ...}`."""

    kind: ClassVar[str] = "optimizer"
    hidden_matrices: ClassVar[bool] = False  # True: the matrices of the layers are a group of their own, `hidden`
    replicable: ClassVar[bool] = False  # True: `build` keeps to what it says of `moments`, so several ranks may step

    @abstractmethod
    def build(self, groups: list[dict[str, Any]], train: Train) -> optim.Optimizer:
        """The torch optimizer over parameter groups, each with its `weight_decay`, and whether it is `hidden`.

        Its state holds tensors alone: by parameter, each `step` a scalar and every other of the parameter's shape.
        A group whose state is not AdamW's names what is kept of each parameter under `moments`.
        """


def optimizer_of(train: Train, registry: Registry = REGISTRY) -> Optimizer:
    """The optimizer that a recipe names. Raises UserError where its file fails."""
    name, fields = chosen(train.optimizer)
    made: Optimizer = registry.get(OPTIMIZER, name)(**fields)
    return made
