"""What queries and keys make of each other: scores and probabilities.

G queries of a group that share keys, S keys. A score is scale q . k, or with a soft cap c (arXiv 2408.00118, section 2)
c tanh(scale q . k / c). A sink is a score of its own, one a head, which takes part in the softmax and has no value
(arXiv 2508.10925, section 2.2).
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Scores(NamedTuple):
    """How queries and keys make probabilities."""

    scale: float | None = None  # None: E^(-1/2)
    cap: float | None = None
    sinks: Tensor | None = None  # (H,)

    @property
    def plain(self) -> bool:
        """Whether a softmax of scaled products is all there is."""
        return self.cap is None and self.sinks is None


PLAIN = Scores()


def probabilities(scaled: Tensor, hidden: Tensor | None, cap: float | None, sinks: Tensor | None) -> Tensor:
    """The softmax of scaled products (..., G, S), of which some are hidden, with cap and sinks (..., G, 1)."""
    if cap is not None:
        scaled = (scaled / cap).tanh_().mul_(cap)
    if hidden is not None:
        scaled = scaled.masked_fill(hidden, -torch.inf)
    if sinks is None:
        return scaled.softmax(-1)
    joined = torch.cat([scaled, sinks.to(scaled.dtype).expand(*scaled.shape[:-1], 1)], -1)
    return joined.softmax(-1)[..., :-1]
