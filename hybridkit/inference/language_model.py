"""The model that users hold: a `Model` that also reads text and goes on from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from hybridkit.block import GivenWindow
from hybridkit.inference.decode import Context, TokenRows, decode_tokens, prefill
from hybridkit.inference.sampling import Sampling
from hybridkit.inference.streaming import Writer
from hybridkit.model.model import Model
from hybridkit.system.errors import UserError


class LanguageModel(Model):
    """What `hybridkit.build` and `hybridkit.load` give."""

    def prefill(
        self, tokens: TokenRows, context: Context | None = None, *, window: GivenWindow = None, chunk: int | None = None
    ) -> Context:
        """Read text or ids in memory that does not grow with their number, and keep what they leave (`decode`)."""
        return prefill(self, tokens, context, window=window, chunk=chunk)

    def generate(
        self,
        context: Context,
        *,
        max_tokens: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int = 0,
    ) -> Iterator[Tensor]:
        """Tokens (B,), one after another, that go on from a context (`decode`); it can be used again."""
        return decode_tokens(self, context, Sampling(temperature, top_k, top_p, min_p, seed), max_tokens)

    def write(
        self,
        prompt: str,
        *,
        tokens: int = 256,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int = 0,
        stop: Sequence[str] = (),
        window: GivenWindow = None,
    ) -> str:
        """The text that goes on from a prompt, up to a stop string, the end of the document or so many tokens.

        Raises UserError for a model without a tokenizer, or an empty prompt.
        """
        if self.tokenizer is None:
            raise UserError("write: this model has no tokenizer; take one from a run, with hybridkit.load")
        if not prompt:
            raise UserError("write: the prompt is empty; it has at least one character")
        writer = Writer(self, Sampling(temperature, top_k, top_p, min_p, seed), tokens, stop)
        return writer.texts(writer.read([prompt], window=window))[0]
