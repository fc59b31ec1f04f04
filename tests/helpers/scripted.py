"""Something that reads like a model and answers needle questions right a known share of the time."""

import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from hybridkit.data.tokenizer import ByteTokenizer

VOCAB = 257
ASKED = " mentioned in the provided text is"


class Seen(NamedTuple):
    """Every token so far, pads included."""

    tokens: Tensor  # (B, N)


class Scripted:
    """Answers the first `right` of every hundred questions with the needle's value, the others with one digit less."""

    def __init__(self, right: int) -> None:
        self.right, self.tokenizer = right, ByteTokenizer()
        self.plan = SimpleNamespace(dims=SimpleNamespace(vocab=VOCAB), entries=[])
        self.layers: list[object] = []
        self.head = lambda x: x
        self.head.weight = torch.zeros(1)  # type: ignore[attr-defined]  # where the model lies
        self.head.decoder = lambda rows: self.head  # type: ignore[attr-defined]
        self.asked: dict[str, int] = {}

    def fixed_windows(self, window: int) -> list[None]:
        return []

    def hidden(self, tokens: Tensor, states: Sequence[Seen] | None = None, **_: object) -> tuple[Tensor, list[Seen]]:
        """Logits (B, T, V) that are right at the last position, and all tokens."""
        seen = torch.cat([states[0].tokens, tokens], dim=1) if states else tokens
        logits = torch.zeros(*tokens.shape, VOCAB)
        logits[:, -1] = self._next(seen)
        return logits, [Seen(seen)]

    def step(self, tokens: Tensor, states: Sequence[Seen]) -> tuple[Tensor, list[Seen]]:
        seen = torch.cat([states[0].tokens, tokens[:, None]], dim=1)
        return self._next(seen), [Seen(seen)]

    def parameters(self) -> list[Tensor]:
        return [self.head.weight]  # type: ignore[attr-defined]

    def run_steps(
        self, decoders: object, tokens: Tensor, states: Sequence[Seen], head: object
    ) -> tuple[Tensor, list[Seen]]:
        return self.step(tokens, states)

    def reserve(self, states: list[Seen], tokens: int) -> list[Seen]:
        return states

    def _next(self, seen: Tensor) -> Tensor:
        """Logits (B, V) of the next byte of the answer, or of the end once it was said."""
        said = [
            self._answer(bytes(row).lstrip(b"\0").decode("latin-1"))
            for row in seen.clamp(max=255).to(torch.uint8).tolist()
        ]
        return F.one_hot(torch.tensor(said), VOCAB).float()

    def _answer(self, text: str) -> int:
        question, asked, said = text.rpartition(ASKED)
        if not asked:
            return 0
        key = question.rpartition(" for ")[2]
        number = self.asked.setdefault(question, len(self.asked))
        (value,) = re.findall(rf"One of the special magic numbers for {re.escape(key)} is: (\d+)\.", text)
        answer = f" {value}." if number % 100 < self.right else f" {value[:-1]}."
        rest = answer.encode()[len(said.encode()) :]
        return rest[0] if rest else self.tokenizer.end
