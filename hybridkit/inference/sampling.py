"""Choosing the next token: temperature, then top-k, top-p and min-p, in transformers' order, then one draw a row.

B rows, V vocabulary. Each filter sees what the ones before it left:
top-k (arXiv 1805.04833) keeps the k likeliest tokens; top-p (arXiv 1904.09751) the fewest whose probabilities reach p;
min-p (arXiv 2407.01082) those at least p times as likely as the likeliest.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral, Real

import torch
from torch import Tensor

from hybridkit.system.errors import UserError

DRAWS = 64  # numbers that a row draws at once


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Temperature 0 takes the likeliest; None leaves a filter out.

    Row r of a batch draws what it would draw alone with seed `seed + r`. Raises UserError for a value out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, kind, right in (
            ("temperature", self.temperature, Real, "a number"),
            ("top-k", self.top_k, Integral, "a whole number"),
            ("top-p", self.top_p, Real, "a number"),
            ("min-p", self.min_p, Real, "a number"),
            ("seed", self.seed, Integral, "a whole number"),
        ):
            if not isinstance(value, kind) and not (value is None and name in ("top-k", "top-p", "min-p")):
                raise UserError(f"{name} {value!r:.60}: should be {right}")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature {self.temperature:g}: should be a finite number, 0 (greedy) or more")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top-k {self.top_k}: should be a whole number, 1 or more")
        for name, value in (("top-p", self.top_p), ("min-p", self.min_p)):
            if value is not None and not 0 < value <= 1:
                raise UserError(f"{name} {value:g}: should be above 0 and at most 1")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed {self.seed}: should be a whole number from 0 to 2**63 - 1")

    def filter(self, logits: Tensor) -> Tensor:
        """How far logits (B, V) are above the largest, over the temperature; -inf where a filter drops the token.

        Not for temperature 0.
        """
        logits = (logits - logits.amax(dim=-1, keepdim=True)) / self.temperature  # the likeliest is 0, and finite
        if self.top_k is not None:
            logits = keep_top_k(logits, self.top_k)
        if self.top_p is not None:
            logits = keep_top_p(logits, self.top_p)
        if self.min_p is not None:
            logits = keep_min_p(logits, self.min_p)
        return logits


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """The k largest of each row (B, V), and what equals the smallest of them; the others -inf."""
    least = logits.topk(min(k, logits.shape[-1])).values[:, -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """The fewest tokens of each row (B, V) whose probabilities add up to at least p; the others -inf."""
    ordered, places = logits.sort()
    drop = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - p  # from the least likely up, where sums are most precise
    drop[:, -1] = False
    return logits.masked_fill(drop.gather(-1, places.argsort()), -torch.inf)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """The tokens of each row (B, V) at least p times as likely as its likeliest; the others -inf."""
    probabilities = logits.softmax(dim=-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(dim=-1, keepdim=True), -torch.inf)


class TokenSampler:
    """Draws tokens for `rows` rows, each row by its own generator: one uniform number a token, whatever the logits."""

    def __init__(self, sampling: Sampling, rows: int) -> None:
        self.sampling = sampling
        self._generators = [torch.Generator().manual_seed(int(sampling.seed) + row) for row in range(rows)]
        self._draws: Iterator[Tensor] = iter(())  # of the next tokens, on the device of the logits

    def __call__(self, logits: Tensor) -> Tensor:
        """Tokens (B,) int64 from logits (B, V)."""
        if self.sampling.temperature == 0:
            return logits.argmax(dim=-1)
        mass = self.sampling.filter(logits.double()).softmax(dim=-1).cumsum(dim=-1)
        # The first token whose cumulative mass exceeds the draw. It has mass, since draw * total < total.
        return torch.searchsorted(mass, self._next(mass.device)[:, None] * mass[:, -1:], right=True)[:, 0]

    def _next(self, device: torch.device) -> Tensor:
        """A number in [0, 1) a row. They go to the device many at a time, since it is waited for then."""
        draw = next(self._draws, None)
        if draw is None:
            drawn = [torch.rand(DRAWS, dtype=torch.float64, generator=one) for one in self._generators]
            self._draws = iter(torch.stack(drawn, 1).to(device).unbind())
            draw = next(self._draws)
        return draw
