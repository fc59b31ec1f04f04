"""AdamW (arXiv 1711.05101): torch's fused one, a single pass over memory, on CPU as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from hybridkit.training.optimizer import Optimizer

if TYPE_CHECKING:
    from torch import optim

    from hybridkit.recipe.schema import Train


class Adamw(Optimizer):
    """AdamW, with the recipe's betas and weight_decay."""

    replicable: ClassVar[bool] = True

    def build(self, groups: list[dict[str, Any]], train: Train) -> optim.Optimizer:
        from torch.optim import AdamW

        return AdamW(groups, lr=train.lr, betas=train.betas, fused=True)
