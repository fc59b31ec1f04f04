"""What a mixer begins with in place of a trained softmax attention: the weights it is offered, and those it takes.

H query heads, G key-value heads, which divide them, E channels of a head, D width. A mixer with all heads of its own
takes key-value head i g of g = H / G neighbours as W(i) = W(floor(i / g)): the heads are repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from torch import Tensor

How = Literal["copied", "repeated", "part", "set"]


class NoMapping(ValueError):
    """A block cannot begin with the weights of an attention, whatever their sizes."""


class Start(NamedTuple):
    """What a weight of a mixer, or some rows of it, begins with.

    `copied`: a weight of the attention as it is; `repeated`: its key-value heads repeated; `part`: some of its rows;
    `set`: a value that no weight of the attention gives, such as the taps of a convolution that changes nothing.
    """

    weight: str  # its name in the mixer's layer
    value: Tensor
    how: How
    source: str | None  # the attention's weight; None where `set`
    begin: int = 0  # the first row of the weight that `value` fills


class AttentionWeights(NamedTuple):
    """A softmax attention's weights, by the names that `sa` gives them.

    Always `q.weight` (H E, D), `k.weight`, `v.weight` (G E, D) and `out.weight` (D, H E); where the attention has them
    `q.bias`, `k.bias`, `v.bias`, `out.bias`, `q_norm.weight` and `k_norm.weight` (E, or all heads' channels),
    `gate.weight` (H E, D), `gate.bias` and `sinks` (H).
    """

    heads: int  # H
    kv_heads: int  # G
    head: int  # E
    weights: Mapping[str, Tensor]
    arguments: Mapping[str, Any] = {}  # of the attention's block, sizes written out

    def __str__(self) -> str:
        shared = "" if self.kv_heads == self.heads else f", {self.kv_heads} of keys and values"
        return f"attention with {self.heads} heads of {self.head} channels{shared}"

    def start(
        self, source: str, weight: str | None = None, *, channels: Sequence[int] | None = None, begin: int = 0
    ) -> Start:
        """The attention's weight `source` for `weight` (by default of the same name), with all heads.

        `channels`: of the rows of each head, those that are taken.
        """
        value, how = self.weights[source], "copied"
        if self.is_shared(source) and self.kv_heads != self.heads:
            value, how = self.repeated(value, self.heads), "repeated"
        if channels is not None and list(channels) != list(range(self.head)):
            value, how = value.unflatten(0, (-1, self.head))[:, list(channels)].flatten(0, 1), "part"
        return Start(weight or source, value, how, source, begin)  # type: ignore[arg-type]

    def is_shared(self, source: str) -> bool:
        """Whether a weight's rows are those of key-value heads."""
        norm = source == "k_norm.weight" and len(self.weights[source]) != self.head
        return norm or source in ("k.weight", "k.bias", "v.weight", "v.bias")

    def repeated(self, value: Tensor, heads: int) -> Tensor:
        """Rows of G heads (G E, ...) as rows of `heads` heads, neighbours alike."""
        return value.unflatten(0, (self.kv_heads, -1)).repeat_interleave(heads // self.kv_heads, 0).flatten(0, 1)


def set_to(weight: str, value: Tensor, begin: int = 0) -> Start:
    """A weight, or its rows from `begin` on, that begins with a value of the rule's own."""
    return Start(weight, value, "set", None, begin)
