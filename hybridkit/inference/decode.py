"""Reading tokens into a context of constant size, and decoding from it.

B rows, T tokens, V vocabulary. `prefill` reads in chunks, so that nothing but the states grows with the text;
`generate` decodes from a copy of the states, which it updates in place.
"""

from __future__ import annotations

import itertools
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from hybridkit.block import GivenWindow, State, clone_state, packed, state_bytes
from hybridkit.inference.sampling import Sampling, TokenSampler
from hybridkit.inference.step_graph import ModelStep, graph_step, places
from hybridkit.model.residual import EntryStep
from hybridkit.system.errors import UserError

if TYPE_CHECKING:
    from hybridkit.model.model import Model

CHUNK = 2048  # tokens read at once, on a CPU
LARGEST_CHUNK = 32768  # on a GPU
_HELD = 40  # vectors of the model's width, in fp32, that reading a token holds at a time: one entry's, with its FFN
LAST = 16  # ids that a context remembers
_LASTING = 32  # tokens from which on it pays to copy the weights, which takes as long as a few steps
_LEAST_ROOM = 64  # tokens that a growing state has room for at first
_GRAPH_ROOM = 2048  # the same where a step is a graph, since recording it anew takes as long as many steps

TokenRow = str | Sequence[int] | np.ndarray | Tensor
TokenRows = TokenRow | Sequence[TokenRow]
IDS = "it should be text, or whole numbers, the ids of tokens; or several such rows"
Decoders = tuple[list[EntryStep], packed.Product]  # of the layers, and the head


@dataclass(frozen=True)
class Context:
    """What a model remembers of the tokens it has read. No function changes it."""

    states: list[State]  # one an entry
    logits: Tensor  # (B, V) of the token that comes next
    tokens: int  # positions read, pads included
    window: GivenWindow = None  # of every block that has one
    last: tuple[tuple[int, ...], ...] = ()  # the last ids of each row, for the text of a reply

    @property
    def bytes(self) -> int:
        """Bytes of the states of all rows."""
        return size_of(self.states)


def size_of(states: Sequence[State]) -> int:
    """Bytes of the states of all rows."""
    return sum(map(state_bytes, states))


@torch.no_grad()
def prefill(
    model: Model,
    tokens: TokenRows,
    context: Context | None = None,
    *,
    window: GivenWindow = None,
    chunk: int | None = None,
) -> Context:
    """Read tokens, `chunk` at a time, after those of `context`; None: as `automatic_chunk` says.

    `tokens` is text, for a model with a tokenizer, or ids, of one row or of several; shorter rows are padded in
    front, and `document_starts` hides the pads. `window`, by default the context's, is that of every block that has
    one. Raises UserError for a row without tokens, ids out of the vocabulary and rows that do not fit the context,
    ValueError for a window below 1 or larger than the context's.
    """
    rows = [_ids(model, row) for row in _split(tokens)]
    if not rows:
        raise UserError("there is no prompt")
    longest = max(map(len, rows))
    if context and (min(map(len, rows)) < longest or len(rows) != len(context.logits)):
        raise UserError(f"the context has {len(context.logits)} rows: give as many prompts, all of one length")
    states, read = (context.states, context.tokens) if context else (None, 0)
    if window is None and context:
        window = context.window
    if window is not None and window >= 2**63:
        raise UserError(f"window {window}: should be at most 2**63 - 1")
    windows = model.fixed_windows(window)
    device = model.head.weight.device
    chunk = chunk or automatic_chunk(model, len(rows))
    for begin in range(0, longest, chunk):
        ids, document_starts = _aligned(rows, longest, begin, min(begin + chunk, longest))
        marks = None if document_starts is None else document_starts.to(device)
        x, states = model.hidden(ids.to(device), states, windows=windows, document_starts=marks)
    assert states is not None
    return Context(states, model.head(x[:, -1:])[:, 0], read + longest, window, _last(rows, context))


def automatic_chunk(model: Model, rows: int) -> int:
    """Tokens of `rows` rows that are read at once: on a GPU as many as a quarter of its free memory holds."""
    device = model.head.weight.device
    if device.type != "cuda":
        return CHUNK
    return chunk_within(torch.cuda.mem_get_info(device)[0] // 4, model.plan.dims.width, rows)


def chunk_within(memory: int, width: int, rows: int) -> int:
    """A power of two of tokens, whose reading takes at most so many bytes; `CHUNK` at least."""
    chunk = LARGEST_CHUNK
    while chunk > CHUNK and chunk * rows * width * 4 * _HELD > memory:
        chunk //= 2
    return chunk


def _last(rows: list[np.ndarray], context: Context | None) -> tuple[tuple[int, ...], ...]:
    before = context.last if context and context.last else ((),) * len(rows)
    ends = [row[-LAST:].tolist() for row in rows]
    return tuple((*old, *new)[-LAST:] for old, new in zip(before, ends, strict=True))


def decode_tokens(
    model: Model,
    context: Context,
    sampling: Sampling,
    max_tokens: int | None = None,
    on_growth: Callable[[Sequence[State]], object] | None = None,
) -> Iterator[Tensor]:
    """Tokens (B,) one after another, without end unless `max_tokens` is given. The context stays unchanged.

    `on_growth` is called with the states whenever they grow: they have room for more tokens than were read.
    A model with a tokenizer never gives an id that stands for no token, as rows of a padded vocabulary do.
    Raises UserError for a negative `max_tokens`.
    """
    if max_tokens is not None and not (isinstance(max_tokens, Integral) and max_tokens >= 0):
        raise UserError(f"the number of tokens to generate is {max_tokens!r:.60}; it is a whole number, 0 or more")
    most = None if max_tokens is None else min(max_tokens, sys.maxsize)  # islice counts no further
    sampler = TokenSampler(sampling, len(context.logits))
    return itertools.islice(_decode(model, context, sampler, max_tokens, on_growth or size_of), most)


def _decode(
    model: Model,
    context: Context,
    sampler: TokenSampler,
    max_tokens: int | None,
    on_growth: Callable[[Sequence[State]], object],
) -> Iterator[Tensor]:
    logits, room, read, plain, step = context.logits, context.tokens, context.tokens, None, None
    most = math.inf if max_tokens is None else context.tokens + max_tokens
    lasting = most - context.tokens >= _LASTING
    graph = lasting and uses_graph(model)
    states: Sequence[State] = [clone_state(state) for state in context.states]
    empty = _without_token(model)
    while True:
        with torch.inference_mode():  # not around the loop: it would stay on in the caller's code
            token = sampler(logits if empty is None else logits.masked_fill(empty, -torch.inf))
        yield token
        read += 1
        with torch.inference_mode():
            if read > room:  # doubled: in all, copying then takes time proportional to the length
                room = int(min(max(2 * read, _GRAPH_ROOM if graph else _LEAST_ROOM), most))
                before, states = places(states) if graph else [], model.reserve(states, room)
                if graph and places(states) != before:  # a graph lasts until a state has grown
                    step = None
                on_growth(states)
            if step is None:
                plain = plain or (packed_step(model, len(logits)) if lasting and packs(model) else model.step)
                step = graph_step(plain, token, states) if graph else plain
            logits, states = step(token, states)


def uses_graph(model: Model) -> bool:
    """Whether decoding steps are recorded as a graph: on a GPU, unless HYBRIDKIT_CUDA_GRAPH=0 is in the environment."""
    return model.head.weight.device.type == "cuda" and os.environ.get("HYBRIDKIT_CUDA_GRAPH") != "0"


def packs(model: Model) -> bool:
    """Whether decoding many tokens takes a copy of the weights: on a GPU where that leaves most free memory free."""
    if model.head.weight.device.type != "cuda":
        return True
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    return 4 * size <= torch.cuda.mem_get_info(model.head.weight.device)[0]


def _without_token(model: Model) -> Tensor | None:
    """Which rows of the head (V,) are no token of the model's tokenizer; None where all are, or there is none."""
    if model.tokenizer is None:
        return None
    empty = np.ones(model.plan.dims.vocab, bool)
    known = model.tokenizer.rows[: len(empty)]
    empty[: len(known)] = ~known
    return torch.from_numpy(empty).to(model.head.weight.device) if empty.any() else None


def packed_step(model: Model, rows: int) -> ModelStep:
    """`model.step` for many tokens: faster, with a copy of the current weights, without gradients.

    The copy is kept for the next call, until the weights change, or `rows` or torch's threads ask for another layout.
    """
    steps, head = decoders(model, rows)
    return partial(model.run_steps, steps, head=head)


_kept: WeakKeyDictionary[Model, tuple[object, Decoders]] = WeakKeyDictionary()


def decoders(model: Model, rows: int) -> Decoders:
    """What decodes in place of a model's layers and of its head; made again only after weights or layout changed."""
    weights = list(model.parameters())
    versions = [(one.data_ptr(), 0 if one.is_inference() else one._version) for one in weights]
    # A change through `.data` raises no version, but changes the sum. All sums take less time than a token.
    sums = torch.stack([one.sum(dtype=torch.float32) for one in weights]).tolist()
    given = rows == 1, packed.panel_width(rows), versions, sums
    kept = _kept.get(model)
    if kept is None or kept[0] != given:
        _kept.pop(model, None)  # first, so that no two copies exist at once
        made = [layer.decoder(rows) for layer in model.layers], model.head.decoder(rows)
        kept = _kept[model] = given, made
    return kept[1]


def _split(tokens: TokenRows) -> list[TokenRow]:
    if isinstance(tokens, Tensor):
        tokens = tokens.cpu().numpy()
    if isinstance(tokens, bytes) or not hasattr(tokens, "__len__"):
        raise UserError(f"the prompt is {type(tokens).__name__}: {IDS}")
    if isinstance(tokens, str) or (len(tokens) and isinstance(tokens[0], int | np.integer)):
        return [tokens]  # type: ignore[list-item]
    return list(tokens)


def _ids(model: Model, row: TokenRow) -> np.ndarray:
    """The ids (T,) of a row, in their own type, so that a long text takes little memory."""
    if isinstance(row, str):
        if model.tokenizer is None:
            raise UserError("this model has no tokenizer: give it ids, or load it from a run")
        try:
            row = model.tokenizer.encode(row.encode())
        except UnicodeEncodeError as error:
            raise UserError(f"the prompt is not UTF-8 text (character {error.start})") from error
    try:
        ids, vocab = np.asarray(row), model.plan.dims.vocab
    except ValueError as error:  # lists of several lengths
        raise UserError(f"the prompt holds lists within lists: {IDS}") from error
    if not ids.size:
        raise UserError("the prompt is empty; it needs at least one token")
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise UserError(f"the prompt holds {row!r:.60}: {IDS}")
    if ids.min() < 0 or ids.max() >= vocab:
        raise UserError(f"token {ids.max() if ids.min() >= 0 else ids.min()} is not among the model's 0 to {vocab - 1}")
    return ids


def _aligned(rows: list[np.ndarray], longest: int, begin: int, end: int) -> tuple[Tensor, Tensor | None]:
    """Columns `begin` to `end` of the rows, padded in front: ids (B, T), and marks (B, T) of each row's first token.

    The marks are None where they are not needed.
    """
    ids, document_starts = np.zeros((len(rows), end - begin), np.int64), np.zeros((len(rows), end - begin), bool)
    for place, row in enumerate(rows):
        pads = longest - len(row)
        part = row[max(0, begin - pads) : max(0, end - pads)]
        ids[place, end - begin - len(part) :] = part
        if begin <= pads < end:
            document_starts[place, pads - begin] = True
    padded = any(len(row) < longest for row in rows)
    return torch.from_numpy(ids), torch.from_numpy(document_starts) if padded and document_starts.any() else None
