"""Calls to entries to a graph: what a pattern and a model's sizes describe, before any weight exists.

The graph is what `show` draws and what validates: embedding -> entry 0 -> ... -> norm -> head, and an edge from
embedding to head where they share a weight.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import networkx as nx
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hybridkit.block import Block, Dims, Entry, TrainStep, window_of
from hybridkit.language.parser import parse_pattern
from hybridkit.language.printer import canonical
from hybridkit.language.resolve import problem, resolve
from hybridkit.language.source import Source, error_at
from hybridkit.recipe.rules import CURRENT_RULES, SCALED_TIED_ROWS
from hybridkit.registry.registry import REGISTRY, Registry
from hybridkit.system.errors import UserError

DEFAULT_FFN: Mapping[str, Any] = {"block": "ffn"}


@dataclass(frozen=True)
class Plan:
    """A compiled pattern: its entries, FFNs included, and the sizes they are built with."""

    written: tuple[Entry, ...]  # as the pattern says them
    entries: tuple[Entry, ...]  # with the FFNs added
    dims: Dims
    tie: bool = False
    logit_cap: float | None = None
    embedding_scale: float = 1.0  # what a row of the embedding is multiplied with when it is read as input

    @property
    def pattern(self) -> str:
        """The canonical pattern: equal stacks print alike."""
        return canonical([str(entry.block) for entry in self.written])

    def windows(self, step: TrainStep) -> list[int | None]:
        """The window of every entry at a training step; None where the entry has none."""
        return [e.window(step, index) if e.window else None for index, e in enumerate(self.entries)]

    @cached_property
    def graph(self) -> nx.DiGraph:
        """Nodes `embedding`, 0 ... L-1 (with attribute `entry`), `norm` and `head`; edges carry their `kind`."""
        graph = nx.DiGraph()
        graph.add_nodes_from((index, {"entry": entry}) for index, entry in enumerate(self.entries))
        nx.add_path(graph, ["embedding", *range(len(self.entries)), "norm", "head"], kind="residual")
        if self.tie:
            graph.add_edge("embedding", "head", kind="tied")
        return graph


def compile_pattern(
    text: str,
    *,
    width: int,
    heads: int,
    vocab: int,
    ffn: Mapping[str, Any] | None = DEFAULT_FFN,
    tie: bool = False,
    logit_cap: float | None = None,
    rules: int = CURRENT_RULES,
    source: Source | None = None,
    registry: Registry = REGISTRY,
) -> Plan:
    """Read a pattern and check that every block of it can be built; no weight is allocated.

    `ffn` names the block that follows every mixer (None: none), unless the pattern itself names one that does not mix.
    Raises PatternError, with a caret, for what the pattern says wrong, and UserError for what `ffn` does.
    """
    calls = parse_pattern(text, source)
    written = tuple(resolve(call, registry, text, source) for call in calls)
    added = _ffn(ffn, registry, source) if ffn and all(entry.block.is_mixer for entry in written) else None
    entries = tuple(e for entry in written for e in ((entry, added) if added else (entry,)))
    dims = Dims(width, heads, vocab, depth=sum(entry.block.is_mixer for entry in entries) or 1)
    spans = {entry.block: call.span for entry, call in zip(written, calls, strict=True)}
    for block in {entry.block: None for entry in entries}:
        try:
            _check(block, replace(dims, depth=1))
        except ValueError as error:
            if block not in spans:
                raise UserError(f"{_where(source)}model.ffn: {error}") from error
            raise error_at(source, text, spans[block].name, str(error)) from error
    return Plan(written, entries, dims, tie, logit_cap, embedding_scale(width, tie, rules))


def embedding_scale(width: int, tie: bool, rules: int) -> float:
    """What a row is multiplied with as input: sqrt(width) where it serves the head as well, which wants it small."""
    return width**0.5 if tie and rules >= SCALED_TIED_ROWS else 1.0


def _check(block: Block, dims: Dims) -> None:
    """Raises ValueError where `dims` do not fit."""
    try:
        layer_parameters(block, dims)
    except (RuntimeError, TypeError, OverflowError) as error:
        if "overflow" not in str(error).lower():
            raise
        raise ValueError(f"{block}: no machine holds sizes like these") from error


def _ffn(arguments: Mapping[str, Any], registry: Registry, source: Source | None) -> Entry:
    given, where = dict(arguments), _where(source)
    name = given.pop("block")
    try:
        cls = registry.block(name)
    except UserError as error:
        raise UserError(f"{where}model.ffn: {error}") from error
    try:
        block = cls.read(list(given.items()))
    except ValueError as error:
        _, message, near = problem(error, cls)
        raise UserError(f"{where}model.ffn: {message}" + (f"; did you mean `{near}`?" if near else "")) from None
    if block.is_mixer:
        raise UserError(f"{where}model.ffn: {name} mixes over time; name a block that does not, such as ffn")
    return Entry(block, window_of(block))


def _where(source: Source | None) -> str:
    return f"{source.file}: " if source and source.file else ""


@lru_cache(1 << 14)
def layer_parameters(block: Block, dims: Dims) -> int:
    """Elements of a block's weights, counted where they take no memory. Raises ValueError where `dims` do not fit."""
    with torch.device("meta"), Uninitialized():
        return sum(weight.numel() for weight in block.build(dims).parameters())


class Uninitialized(TorchFunctionMode):
    """Builds modules without filling their weights: what has no data needs no values, and torch would import its
    compiler, a second's worth, to draw them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls `func`, unless it is one of torch.nn.init or draws in place."""
        if getattr(func, "__module__", None) == "torch.nn.init" or func in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


_DRAWS = (Tensor.normal_, Tensor.uniform_)
