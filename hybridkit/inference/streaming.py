"""Text from a model while it is generated, in whole characters, up to a stop string or the end of the document."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hybridkit.block import GivenWindow, State
from hybridkit.data.tokenizer import Tokenizer
from hybridkit.inference.decode import Context, decode_tokens, prefill, size_of
from hybridkit.inference.sampling import Sampling
from hybridkit.model.model import Model
from hybridkit.system.errors import UserError

Ending = Literal["stop", "end", "tokens"]  # a stop string, the end of the document, the number of tokens asked for


class Stops:
    """Passes text on up to the first stop string, and holds back what may be the beginning of one.

    The first is the one that is complete first, so that the pieces in which the text comes do not matter.
    Raises UserError for an empty stop string.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        if "" in strings:
            raise UserError("a stop string is empty; it has at least one character")
        self.found = False
        self._strings, self._held = strings, ""

    def feed(self, text: str) -> str:
        """The text that certainly stands before any stop string."""
        self._held += text
        if ends := [(place + len(s), place) for s in self._strings if (place := self._held.find(s)) >= 0]:
            self.found = True
            return self._take(min(ends)[1])
        begun = (n for s in self._strings for n in range(1, len(s)) if self._held.endswith(s[:n]))
        return self._take(len(self._held) - max(begun, default=0))

    def close(self) -> str:
        """What was held back, when no more text comes."""
        return "" if self.found else self._take(len(self._held))

    def _take(self, length: int) -> str:
        taken, self._held = self._held[:length], self._held[length:]
        return taken


class Reply:
    """The text of one row, id by id; `after` are the last ids of its prompt."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = (), after: Sequence[int] = ()) -> None:
        self.text = ""  # all text so far
        self.tokens = 0  # ids so far
        self.ending: Ending | None = None  # None: not ended
        self._stream, self._end, self._stops = tokenizer.stream(after), tokenizer.end, Stops(stops)

    def feed(self, token: int) -> str:
        """The text that is certain once this id is known; none after the reply has ended."""
        if self.ending:
            return ""
        self.tokens += 1
        return self.close("end") if token == self._end else self._give(self._stream.feed(token), None)

    def close(self, ending: Ending) -> str:
        """What was held back, when no more ids come."""
        return "" if self.ending else self._give(self._stream.close(), ending)

    def to_json(self) -> dict[str, Any]:
        """The whole text, and why it ended."""
        return {"text": self.text, "tokens": self.tokens, "ending": self.ending}

    def _give(self, text: str, ending: Ending | None) -> str:
        text = self._stops.feed(text)
        if ending:
            text += self._stops.close()
        self.ending = "stop" if self._stops.found else ending
        self.text += text
        return text


@dataclass
class Stats:
    """What was read and written, how fast, and in how much memory."""

    prompt_tokens: int = 0  # of all rows, pads included
    prompt_seconds: float = 0.0
    tokens: int = 0  # of all rows, those after a row's end left out
    seconds: float = 0.0
    state_bytes: int = 0  # of all rows, the most that decoding holds

    def to_json(self) -> dict[str, int | float | None]:
        """Counts, bytes, and tokens per second: null where nothing was read or written."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "prefill_tokens_per_second": self.prompt_tokens / self.prompt_seconds if self.prompt_tokens else None,
            "tokens": self.tokens,
            "decode_tokens_per_second": self.tokens / self.seconds if self.tokens else None,
            "state_bytes": self.state_bytes,
        }

    def __str__(self) -> str:
        read, written = (f"{rate:,.0f} tokens/s" if rate else "-" for rate in list(self.to_json().values())[1:4:2])
        return (
            f"prefill {self.prompt_tokens:,} tokens, {read}; "
            f"decode {self.tokens:,} tokens, {written}; state {self.state_bytes:,} bytes"
        )


@dataclass
class Writer:
    """A model that reads prompts, replies to them and fills `stats`. The model needs a tokenizer."""

    model: Model
    sampling: Sampling
    max_tokens: int
    stops: Sequence[str] = ()
    stats: Stats = field(default_factory=Stats)

    def read(
        self,
        texts: Sequence[str],
        context: Context | None = None,
        *,
        window: GivenWindow = None,
        chunk: int | None = None,
    ) -> Context:
        """Read one text a row, after `context`. Raises UserError for what the model cannot read."""
        if window and not self.model.plan.has_windows:
            raise UserError(f"no block of {self.model.plan.pattern} has a window")
        start = time.perf_counter()
        try:
            after = prefill(self.model, texts, context, window=window, chunk=chunk)
        except ValueError as error:  # a window larger than the context's, which only layers see
            raise UserError(str(error)) from error
        after.logits[0, 0].item()  # waits for the device
        self.stats.prompt_seconds += time.perf_counter() - start
        self.stats.prompt_tokens += len(texts) * (after.tokens - (context.tokens if context else 0))
        return after

    def reply(self, context: Context, replies: list[Reply]) -> Iterator[list[str]]:
        """Append a reply a row and write them; the new text of every row after each token, until all have ended."""
        assert self.model.tokenizer is not None
        sampling = replace(self.sampling, seed=self.sampling.seed + len(replies))
        last = context.last or ((),) * len(context.logits)
        rows = [Reply(self.model.tokenizer, self.stops, after) for after in last]
        replies += rows

        def held(states: Sequence[State]) -> None:
            self.stats.state_bytes = max(self.stats.state_bytes, size_of(states))

        held(context.states)
        start = time.perf_counter()
        for tokens in decode_tokens(self.model, context, sampling, self.max_tokens, held):
            yield [row.feed(token) for row, token in zip(rows, tokens.tolist(), strict=True)]
            if all(row.ending for row in rows):
                break
        yield [row.close("tokens") for row in rows]
        self.stats.seconds += time.perf_counter() - start
        self.stats.tokens += sum(row.tokens for row in rows)

    def texts(self, context: Context) -> list[str]:
        """The whole reply of every row."""
        replies: list[Reply] = []
        for _ in self.reply(context, replies):
            pass
        return [reply.text for reply in replies]
