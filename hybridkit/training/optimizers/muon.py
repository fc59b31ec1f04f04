"""Muon for the matrices of layers, AdamW for all else: `optimizer: muon`, or `{name: muon, momentum: .95}`.

    M <- momentum M + G,   O = orthogonalize(G + momentum M),   W <- W - lr (0.2 sqrt(max(n, m)) O + decay W)

for a weight W (n, m) with gradient G. `orthogonalize` brings the singular values near 1 by five Newton-Schulz steps
(Jordan et al., 2024, https://kellerjordan.github.io/posts/muon). The factor 0.2 sqrt(max(n, m)) is that of arXiv
2502.16982, section 2.2: updates have the size of AdamW's, so that both share a learning rate and a weight decay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from hybridkit.training.optimizer import Optimizer

if TYPE_CHECKING:
    from torch import optim

    from hybridkit.recipe.schema import Train


class Muon(Optimizer):
    """Muon, with the recipe's weight_decay; embedding, head, norms, biases and gates have the recipe's AdamW."""

    hidden_matrices: ClassVar[bool] = True
    replicable: ClassVar[bool] = True

    momentum: float = Field(default=0.95, ge=0, lt=1, description="Of Muon's running sum of gradients.")

    def build(self, groups: list[dict[str, Any]], train: Train) -> optim.Optimizer:
        from hybridkit.training.optimizers._muon import MuonAdamW

        return MuonAdamW(groups, train.lr, train.betas, self.momentum)
