"""From the calls of a pattern to entries and a graph: what pattern and config describe, before any weight exists.

`show` draws the graph: embedding -> entry 0 -> ... -> norm -> head, and an edge from embedding to head where they share
a weight. Branches side by side are nodes between the entry before and their own, which is then their sum.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hybridkit.block import Block, Dims, Entry, GivenWindow, TrainStep, Window, window_of
from hybridkit.language.parser import parse_pattern
from hybridkit.language.pattern_source import PatternSource, Span, error_at
from hybridkit.language.printer import canonical
from hybridkit.language.resolve import problem, resolve_pattern
from hybridkit.model.config import ModelConfig
from hybridkit.model.residual import is_reserved
from hybridkit.registry.registry import REGISTRY, Registry
from hybridkit.system.errors import UserError

if TYPE_CHECKING:
    import networkx as nx

_APART = 1 << 16  # between the indices of an entry's branches: more than a stack has entries


class Branch(NamedTuple):
    """A block of the stack. States, windows and policies are lists with one element a branch, in this order."""

    name: str  # the entry's index, "3", or "3.0" and "3.1" where it has several branches
    place: int  # what a window policy is asked for: the entry's index, another number for each of several branches
    block: Block


@dataclass(frozen=True)
class Plan:
    """A compiled pattern: its entries, FFNs included, and the config they are built by."""

    written: tuple[Entry, ...]  # as the pattern says them
    entries: tuple[Entry, ...]  # with the FFNs added
    config: ModelConfig

    @cached_property
    def dims(self) -> Dims:
        """The sizes that blocks are built with."""
        depth = sum(entry.is_mixer for entry in self.entries) or 1
        return Dims(self.config.width, self.config.heads, self.config.vocab, depth, self.config.norm_eps)

    @cached_property
    def sizes(self) -> Dims:
        """The dims without depth, on which no cost depends: plans of different depths share the answers of blocks."""
        return Dims(self.config.width, self.config.heads, self.config.vocab, norm_eps=self.config.norm_eps)

    @cached_property
    def kinds(self) -> dict[Entry, list[int]]:
        """The entries that differ, and the indices of each."""
        by_object: dict[int, list[int]] = {}  # equal calls of a pattern give one object, which is quick to compare
        for index, entry in enumerate(self.entries):
            by_object.setdefault(id(entry), []).append(index)
        places: dict[Entry, list[int]] = {}
        for found in by_object.values():
            places.setdefault(self.entries[found[0]], []).extend(found)
        return places

    @property
    def pattern(self) -> str:
        """The canonical pattern: equal stacks print alike."""
        return canonical(list(map(str, self.written)))

    @cached_property
    def branches(self) -> tuple[Branch, ...]:
        """The blocks of all entries."""
        return tuple(branch for index, entry in enumerate(self.entries) for branch in entry_branches(index, entry))

    @property
    def policies(self) -> list[Window | None]:
        """The window policy of every branch; None where its block has none."""
        return [window_of(branch.block) for branch in self.branches]

    @property
    def has_windows(self) -> bool:
        """Whether any branch has a window policy."""
        return any(self.policies)

    def has(self, name: str) -> bool:
        """Whether it has blocks of this name, or a branch with this index, as 3 or 3.1."""
        return any(name in (branch.name, branch.block.name()) for branch in self.branches)

    def windows(self, step: TrainStep) -> list[GivenWindow]:
        """What the policy of every branch gives at a training step."""
        asked = zip(self.policies, self.branches, strict=True)
        return [policy(step, branch.place) if policy else None for policy, branch in asked]

    def fixed_windows(self, window: GivenWindow) -> list[GivenWindow]:
        """`window` for every branch with a policy: the window outside training."""
        return [window if policy else None for policy in self.policies]

    def reach(self, window: GivenWindow = None, silenced: str | None = None) -> int | None:
        """How many positions, its own included, an output of the stack depends on at a window; None: all before it.

        Each entry adds what its furthest branch reaches beyond its own position: L(w - 1) + 1 for L windows of w.
        `silenced`: the blocks, or the branch by its name, whose output is zeroed.
        """
        whole = 1
        for index, entry in enumerate(self.entries):
            branches = entry_branches(index, entry)
            heard = [one.block for one in branches if silenced not in (one.name, one.block.name())]
            reached = [block.reach(window) for block in heard]
            if None in reached:
                return None
            whole += max((one for one in reached if one), default=1) - 1
        return whole

    @cached_property
    def graph(self) -> "nx.DiGraph":
        """Nodes `embedding`, 0 ... L-1 (with attribute `entry`), `norm` and `head`; edges carry their `kind`.

        Branches of an entry with several have nodes named like them, with attribute `block`.
        """
        import networkx as nx  # a quarter of a second, which counting costs does not need

        graph = nx.DiGraph()
        graph.add_nodes_from((index, {"entry": entry}) for index, entry in enumerate(self.entries))
        nx.add_path(graph, ["embedding", *range(len(self.entries)), "norm", "head"], kind="residual")
        for index, entry in enumerate(self.entries):
            for branch in entry_branches(index, entry) if len(entry.branches) > 1 else ():
                graph.add_node(branch.name, block=branch.block)
                nx.add_path(graph, [index - 1 if index else "embedding", branch.name, index], kind="branch")
        if self.config.tie:
            graph.add_edge("embedding", "head", kind="tied")
        return graph


def entry_branches(index: int, entry: Entry) -> list[Branch]:
    """The branches of an entry, by its index in the stack."""
    several = len(entry.branches) > 1
    return [
        Branch(f"{index}.{place}" if several else str(index), index + place * _APART, block)
        for place, block in enumerate(entry.branches)
    ]


def compile_pattern(
    text: str, config: ModelConfig, *, source: PatternSource | None = None, registry: Registry = REGISTRY
) -> Plan:
    """Read a pattern and check that every block of it can be built; no weight is allocated.

    A pattern that itself names a block which does not mix gets no FFNs added. Raises PatternError, with a caret, for
    what the pattern says wrong, and UserError for what `config.ffn` does.
    """
    written = resolve_pattern(text, registry, source)
    only_mixers = all(entry.is_mixer for entry in {id(entry): entry for entry in written}.values())
    added = _ffn(config.ffn, registry, source) if config.ffn and only_mixers else None
    entries = tuple(e for entry in written for e in ((entry, added) if added else (entry,)))
    plan = Plan(written, entries, config)
    for block in dict.fromkeys(block for entry in plan.kinds for block in entry.branches):
        try:
            if is_reserved(block.name()):
                raise ValueError(f"`{block.name()}` is a name of the model's own: give the block's file another one")
            _check(block, plan.sizes)
        except ValueError as error:
            spans = _spans(text, written, source)
            if block not in spans:
                raise UserError(f"{_where(source)}model.ffn: {error}") from error
            raise error_at(source, text, spans[block], str(error)) from error
    return plan


def _spans(text: str, written: Sequence[Entry], source: PatternSource | None) -> dict[Block, Span]:
    """Where the names of a pattern's blocks stand in its text."""
    return {
        block: own.span.name
        for entry, call in zip(written, parse_pattern(text, source), strict=True)
        for block, own in zip(entry.branches, call.branches, strict=True)
    }


def _check(block: Block, dims: Dims) -> None:
    """Raises ValueError where `dims` do not fit."""
    try:
        layer_parameters(block, dims)
    except (RuntimeError, TypeError, OverflowError) as error:
        if "overflow" not in str(error).lower():
            raise
        raise ValueError(f"{block}: sizes like these fit into no machine's memory") from error


def _ffn(arguments: Mapping[str, Any], registry: Registry, source: PatternSource | None) -> Entry:
    """What is added after each mixer; equal arguments give the same object."""
    said = f"model.ffn {sorted(arguments.items())}"
    if said not in registry.entries:
        registry.entries[said] = _read_ffn(arguments, registry, source)
    return registry.entries[said]


def _read_ffn(arguments: Mapping[str, Any], registry: Registry, source: PatternSource | None) -> Entry:
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
    return Entry((block,))


def _where(source: PatternSource | None) -> str:
    return f"{source.file}: " if source and source.file else ""


@lru_cache(1 << 14)
def layer_parameters(block: Block, dims: Dims) -> int:
    """Elements of a block's weights, counted on the meta device. Raises ValueError where `dims` do not fit."""
    with torch.device("meta"), Uninitialized():
        return sum(weight.numel() for weight in block.build(dims).parameters())


class Uninitialized(TorchFunctionMode):
    """Builds modules without initial values. Weights on the meta device have no data, and computing values for them
    would make torch import its compiler, which takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Skips functions of torch.nn.init and those that change values in place; calls all others."""
        if getattr(func, "__module__", None) == "torch.nn.init" or func in _CHANGES:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


_NAMES = "normal uniform fill zero copy add sub mul div neg abs clamp exp expm1 log log1p sqrt pow"
_CHANGES = {getattr(Tensor, f"{name}_") for name in _NAMES.split()}
