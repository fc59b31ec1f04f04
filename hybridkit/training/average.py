"""A running mean of the weights (EMA): after every update, mean = decay mean + (1 - decay) weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hybridkit.runs.weights import check_weights, weights_of


class WeightAverage:
    """The mean of a model's weights; it begins as a copy of them."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        self.restart()

    def restart(self) -> None:
        """Begin again with the weights as they are."""
        self._mean = {name: tensor.clone() for name, tensor in weights_of(self._model).items()}

    @torch.no_grad()
    def update(self) -> None:
        """After an update of the weights."""
        own = weights_of(self._model)
        torch._foreach_lerp_(list(self._mean.values()), [own[name] for name in self._mean], 1 - self._decay)

    def tensors(self) -> dict[str, Tensor]:
        """The mean under the weights' names. Not copied."""
        return self._mean

    def load(self, tensors: Mapping[str, Tensor], origin: str) -> None:
        """Go on from a stored mean. Raises UserError, naming `origin`, where it is another model's."""
        check_weights(self._model, tensors, origin)
        for name, tensor in self._mean.items():
            tensor.copy_(tensors[name])

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The model holds the mean within, and its own weights again after."""
        own = weights_of(self._model)
        kept = {name: tensor.clone() for name, tensor in own.items()}
        try:
            _copy(own, self._mean)
            yield
        finally:
            _copy(own, kept)


@torch.no_grad()
def _copy(into: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, tensor in into.items():
        tensor.copy_(values[name])
