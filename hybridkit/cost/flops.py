"""What a plan costs: FLOPs, parameters, state. Asked of the blocks, or derived from what they build on the meta device.

Units are those of `hybridkit.block`: FLOPs are forward, of one sequence, 2 per multiply-add; states are bytes;
parameters are elements. Matrix products and attention pairs count; norms, non-linearities, RoPE, softmax and the
embedding's look-up do not. Plug-in blocks need no change here: each block answers for itself.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch

from hybridkit.block import Block, Count, Dims, Entry, GivenWindow, Window, padded_width, window_limit, window_of
from hybridkit.model.plan import Plan, layer_parameters
from hybridkit.model.residual import num_norms
from hybridkit.system.errors import UserError

TRAINING = 3  # a backward pass has twice the products of forward: for the inputs' gradient and for the weights'


@dataclass(frozen=True)
class CostSettings:
    """What costs depend on beside the plan.

    `context`: tokens of a sequence. `window`: one for all blocks in place of their policies. `batch`: rows that decode
    together. `dtype`: of weights and states.
    """

    context: int
    count: Count = "exact"
    window: GivenWindow = None
    batch: int = 1
    dtype: torch.dtype = torch.float32


class Parameters(NamedTuple):
    """Elements of the weights. A tied head has none of its own; `body` is the stack and the final norm."""

    embedding: int
    head: int
    body: int

    @property
    def total(self) -> int:
        """Of the whole model."""
        return sum(self)


class LayerCost(NamedTuple):
    """The costs of one entry, its norms included, or of one branch without norms."""

    parameters: int
    forward: Fraction  # FLOPs of one sequence, the mean over training steps and their windows
    prefill: int  # FLOPs of one sequence at the largest window
    decode: Fraction  # FLOPs of the token at position `context`
    state: int  # bytes of `batch` rows after `context` tokens
    written: int  # bytes of them that one token writes
    idle: int = 0  # parameters that one token does not pass: experts that it does not choose
    unread: int = 0  # parameters that a step of `batch` rows does not read, as expected


@dataclass(frozen=True)
class Cost:
    """The costs of a plan. The head counts for every token of a forward pass, and once for a prompt."""

    plan: Plan
    settings: CostSettings
    parameters: Parameters
    kinds: tuple[LayerCost, ...]  # of the plan's kinds

    @cached_property
    def layers(self) -> tuple[LayerCost, ...]:
        """The costs of every entry."""
        pairs = zip(self.kinds, self.plan.kinds.values(), strict=True)
        by_index = {index: found for found, places in pairs for index in places}
        return tuple(by_index[index] for index in range(len(by_index)))

    def _total(self, figure: Callable[[LayerCost], Fraction | int]) -> Fraction:
        """The sum over all entries. Whole numbers apart: adding fractions is slow, and most are whole."""
        fractions, whole = list[Fraction](), 0
        for found, places in zip(self.kinds, self.plan.kinds.values(), strict=True):
            value, times = figure(found), len(places)
            if value.denominator == 1:
                whole += times * value.numerator
            else:
                fractions.append(times * Fraction(value))
        return sum(fractions, Fraction(whole))

    @property
    def _head(self) -> int:
        return head_flops(self.plan, self.settings.count)

    @property
    def forward(self) -> Fraction:
        """FLOPs of one token of a training sequence, on average over positions and over the policies' shares."""
        return self._total(lambda layer: layer.forward) / self.settings.context + self._head

    @property
    def training(self) -> Fraction:
        """FLOPs of one token of training, recomputation left out."""
        return TRAINING * self.forward

    @property
    def recompute(self) -> Fraction:
        """FLOPs a token that `train.recompute` adds: the stack's forward pass once more."""
        return self.forward - self._head

    @property
    def prefill(self) -> int:
        """FLOPs of reading a prompt of `context` tokens; only its last token passes the head."""
        return int(self._total(lambda layer: layer.prefill)) + head_flops(self.plan)  # of one token: not padded

    @property
    def decode(self) -> Fraction:
        """FLOPs of the token at position `context`."""
        return self._total(lambda layer: layer.decode) + head_flops(self.plan)

    @property
    def state(self) -> int:
        """Bytes of the states of `batch` rows after `context` tokens."""
        return int(self._total(lambda layer: layer.state))

    @property
    def active(self) -> int:
        """Parameters that one token passes: all but the experts that it does not choose."""
        return self.parameters.total - int(self._total(lambda layer: layer.idle))

    @property
    def decode_bytes(self) -> Fraction:
        """Bytes that decoding a token moves: its share of the weights, its row's state read, and the part written."""
        weights = self.parameters.total - (0 if self.plan.config.tie else self.parameters.embedding)
        weights -= int(self._total(lambda layer: layer.unread))
        read = weights * self.settings.dtype.itemsize
        return (read + self._total(lambda layer: layer.state + layer.written)) / self.settings.batch


def cost(plan: Plan, settings: CostSettings) -> Cost:
    """All costs of a plan except its training memory (`hybridkit.cost.memory`)."""
    asked = ((entry, num_norms(entry, plan.config)) for entry in plan.kinds)
    kinds = tuple(_entry_cost(entry, norms, plan.sizes, settings) for entry, norms in asked)
    return Cost(plan, settings, _parameters(plan, (kind.parameters for kind in kinds)), kinds)


@lru_cache(1 << 14)
def _entry_cost(entry: Entry, norms: int, dims: Dims, settings: CostSettings) -> LayerCost:
    """The costs of one entry: of its branches and norms."""
    first, *others = (layer_cost(block, dims, settings) for block in entry.branches)
    whole = LayerCost(*map(sum, zip(first, *others, strict=True))) if others else first  # type: ignore[arg-type]
    return whole._replace(parameters=whole.parameters + norms * dims.width)


@lru_cache(1 << 14)
def layer_cost(block: Block, dims: Dims, settings: CostSettings) -> LayerCost:
    """The costs of one branch, or of an entry's only block, without norms."""
    tokens = settings.context
    window = window_limit(window_of(block), settings.window)
    return LayerCost(
        layer_parameters(block, dims),
        _expected(block, dims, settings),
        _flops(block, dims, tokens, window, settings.count),
        _decode(block, dims, window, settings),
        layer_state(block, dims, tokens, window, settings.batch, settings.dtype),
        layer_state(block, dims, 1, window, settings.batch, settings.dtype),
        block.idle_parameters(dims),
        block.idle_parameters(dims, settings.batch),
    )


def forward_flops(plan: Plan, tokens: int, windows: Sequence[GivenWindow] | None = None, count: Count = "exact") -> int:
    """FLOPs of one sequence of `tokens`, its head included. `windows`: one a branch; None: each policy's largest.

    Fast enough for every training step, since the blocks' answers are cached.
    """
    dims, asked = plan.sizes, zip(plan.branches, windows or [None] * len(plan.branches), strict=True)
    return sum(_flops(b.block, dims, tokens, window, count) for b, window in asked) + tokens * head_flops(plan, count)


def head_flops(plan: Plan, count: Count = "exact") -> int:
    """FLOPs of one token's logits."""
    vocab = plan.sizes.vocab
    return 2 * plan.sizes.width * (padded_width(vocab) if count == "hardware" else vocab)


def parameters(plan: Plan) -> Parameters:
    """The elements of a plan's weights, counted on the meta device."""
    return _parameters(plan, (entry_parameters(plan, entry) for entry in plan.kinds))


def _parameters(plan: Plan, kinds: Iterable[int]) -> Parameters:
    """The same, from the elements of each of the plan's kinds."""
    table = plan.sizes.width * plan.sizes.vocab
    body = sum(count * len(places) for count, places in zip(kinds, plan.kinds.values(), strict=True))
    return Parameters(table, 0 if plan.config.tie else table, body + plan.sizes.width)


def entry_parameters(plan: Plan, entry: Entry) -> int:
    """The elements of an entry's weights: those of its branches and norms."""
    own = sum(layer_parameters(block, plan.sizes) for block in entry.branches)
    return own + num_norms(entry, plan.config) * plan.sizes.width


def total_state_bytes(plan: Plan, settings: CostSettings) -> int:
    """Bytes of the states of `settings.batch` rows after `settings.context` tokens."""
    return sum(
        len(places) * layer_state(block, plan.sizes, settings.context, window, settings.batch, settings.dtype)
        for entry, places in plan.kinds.items()
        for block in entry.branches
        for window in [window_limit(window_of(block), settings.window)]
    )


@lru_cache(1 << 16)
def layer_state(block: Block, dims: Dims, tokens: int, window: GivenWindow, batch: int, dtype: torch.dtype) -> int:
    """Bytes of all tensors of a layer's state after `tokens`, with room for no more."""
    state = block.init_state(dims, batch, tokens, window, device="meta", dtype=dtype)
    return sum(tensor.numel() * tensor.element_size() for tensor in state)


def _expected(block: Block, dims: Dims, settings: CostSettings) -> Fraction:
    """The mean over training steps: every window of the policy counts by its share of them."""
    policy = window_of(block)
    if policy is None or settings.window is not None:
        window = window_limit(policy, settings.window)
        return Fraction(_flops(block, dims, settings.context, window, settings.count))
    shares = window_shares(policy, settings.context).items()
    asked = (Fraction(share) * _flops(block, dims, settings.context, w, settings.count) for w, share in shares)
    return sum(asked, Fraction())


def window_shares(policy: Window, sequence: int) -> Mapping[int, float]:
    """The shares of a policy's windows in rows of so many tokens. Raises UserError where these do not suit it."""
    try:
        return policy.shares(sequence)
    except ValueError as error:
        raise UserError(f"{policy}, in sequences of {sequence:,} tokens: {error}") from error


def _decode(block: Block, dims: Dims, window: GivenWindow, settings: CostSettings) -> Fraction:
    """FLOPs of the token at position `context`. Decoding runs the recurrent form, whose kernels execute the `exact`
    count; `paper` divides a sequence's FLOPs evenly."""
    tokens = settings.context
    if settings.count == "paper":
        return Fraction(_flops(block, dims, tokens, window, "paper"), tokens)
    before, after = (_flops(block, dims, length, window, "exact") for length in (tokens - 1, tokens))
    return Fraction(after - before)


@lru_cache(1 << 16)
def _flops(block: Block, dims: Dims, tokens: int, window: GivenWindow, count: Count) -> int:
    return block.flops(dims, tokens, window, count)
