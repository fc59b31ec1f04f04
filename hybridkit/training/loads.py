"""What layers told in the calls of one step (hybridkit.block.auxiliary): for metrics, and for the layers themselves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from hybridkit.block import Auxiliary, Layer
from hybridkit.model.model import Model

Sum = Callable[[Tensor], Tensor]  # over ranks


class Loads:
    """Summed over the calls of a step, by the layer's entry: `1`, or `1.0` for a branch of it."""

    def __init__(self, model: Model) -> None:
        named = {module: name for name, module in model.named_modules() if isinstance(module, Layer)}
        self._names = {layer: f"{name}." for layer, name in named.items()}  # as names of its weights begin
        self._entries = {
            layer: ".".join(part for part in name.split(".") if part.isdecimal()) for layer, name in named.items()
        }
        self.clear()

    def clear(self) -> None:
        """A new step begins."""
        self._loads: dict[Layer, Tensor] = {}
        self._loss = torch.zeros((), dtype=torch.float64)  # summed over targets
        self._targets = torch.zeros((), dtype=torch.float64)

    def add(self, told: Sequence[Auxiliary], targets: int) -> None:
        """One call of the model. Rows that count no target, such as those that fill up ranks, are no load."""
        for layer, loss, load in told:
            assert isinstance(layer, Layer)
            self._loads[layer] = self._loads.get(layer, 0) + load.double() * (targets > 0)
            if loss is not None:
                self._loss = self._loss.to(loss.device) + loss.detach().double() * targets
        self._targets += targets

    def share(self, summed: Sum) -> None:
        """Sum over ranks, on all of which the same layers told something."""
        if self._loads:
            self._loads = {layer: summed(load) for layer, load in self._loads.items()}
            self._loss, self._targets = summed(self._loss), summed(self._targets.to(self._loss.device))

    def metrics(self) -> dict[str, Any]:
        """`aux_loss`, what was added to the loss of a target; `expert_load`, each layer's largest load over its mean;
        `idle_experts`, those that no token of the step chose. Nothing where no layer told anything."""
        if not self._loads or not self._targets:
            return {}
        loads = {self._entries[layer]: load.cpu() for layer, load in self._loads.items()}
        return {
            "aux_loss": (self._loss / self._targets.to(self._loss.device)).item(),
            "expert_load": {entry: (load.max() / load.mean()).item() for entry, load in loads.items()},
            "idle_experts": sum(int((load == 0).sum()) for load in loads.values()),
        }

    @torch.no_grad()
    def balance(self, frozen: Collection[str] = ()) -> None:
        """After an update: hand every layer its loads, but for those of which `frozen` says how the names begin."""
        for layer, load in self._loads.items():
            if not self._names[layer].startswith(tuple(frozen)):
                layer.balance(load)
