"""A mixer that can begin with a trained attention's weights (`from_attention`) tells the truth about what it takes.

H query heads, G key-value heads, E channels of a head, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from hybridkit.block import AttentionWeights, Block, Dims, NoMapping, Start
from hybridkit.testing.layer_under_test import LayerUnderTest, law

TOKENS = 6


@law
def check_from_attention(block: Block, dims: Dims) -> None:
    """The rule names weights that there are, in their shapes, and nothing twice; it is a function of its arguments.

    What it says is copied has the attention's values, and the layer multiplies with them: another value of a source
    gives another output. Keys and values that heads share are those of the same heads written out, W(i) = W(floor(i /
    g)). On the meta device it gives the same names and shapes. A block without a rule passes, and so does one that no
    attention offered here fits.
    """
    trial = LayerUnderTest(block, dims)
    for attention in _offers(trial):
        given = _taken(block, attention, dims)
        if given is None:
            continue
        _fits(trial, given)
        _truthful(trial, attention, given)
        _again(trial, attention, given)
        _matters(trial, attention, given)
        whole = _taken(block, _written_out(attention), dims)
        for one, other in zip(given, whole or given, strict=True):
            trial.check(_same(one, other), f"{one.weight}: shared heads are not repeated, each to its neighbours")


def _offers(trial: LayerUnderTest) -> Iterator[AttentionWeights]:
    """Attentions of the block's own heads and of four, with and without shared keys and values."""
    own, width = trial.block.resolved(trial.dims), trial.dims.width
    number = getattr(own, "heads", None) or trial.dims.heads
    for heads in sorted({number, 4}):
        for head in sorted({getattr(own, "head", None) or width // heads, width // heads} - {0}):
            for shared in sorted({heads, getattr(own, "kv_heads", None) or heads, 1, 2}):
                if heads % shared == 0:
                    yield offered(heads, shared, head, width)


def offered(heads: int, kv_heads: int, head: int, width: int, seed: int = 0) -> AttentionWeights:
    """An attention with random weights in float64."""
    generator = torch.Generator().manual_seed(seed)
    rows = {"q.weight": heads, "k.weight": kv_heads, "v.weight": kv_heads}
    shapes = {name: (count * head, width) for name, count in rows.items()} | {"out.weight": (width, heads * head)}
    weights = {
        name: torch.randn(shape, dtype=torch.float64, generator=generator) / shape[1] ** 0.5
        for name, shape in shapes.items()
    }
    return AttentionWeights(heads, kv_heads, head, weights)


def _taken(block: Block, attention: AttentionWeights, dims: Dims) -> list[Start] | None:
    """None where the block has no rule, or another size."""
    try:
        return list(block.from_attention(attention, dims))
    except NoMapping:
        return None
    except ValueError as error:
        assert str(error), f"{block}: from_attention refuses {attention} without a word"
        return None


def _fits(trial: LayerUnderTest, given: list[Start]) -> None:
    """Weights that there are, and no row twice."""
    own = trial.layer.state_dict()
    filled = {name: torch.zeros(max(1, len(weight)) if weight.dim() else 1) for name, weight in own.items()}
    for start in given:
        trial.check(start.weight in own, f"from_attention names {start.weight}, which the layer does not have")
        weight, end = own[start.weight], start.begin + len(start.value)
        fits = start.value.shape[1:] == weight.shape[1:] and 0 <= start.begin < end <= len(weight)
        said = f"{start.weight} is {tuple(weight.shape)}, not {tuple(start.value.shape)} from row {start.begin} on"
        trial.check(fits, f"from_attention: {said}")
        filled[start.weight][start.begin : end] += 1
        trial.check(bool((filled[start.weight] <= 1).all()), f"from_attention fills rows of {start.weight} twice")


def _truthful(trial: LayerUnderTest, attention: AttentionWeights, given: list[Start]) -> None:
    """Values are those of the source that is named, whole or in rows."""
    for start in given:
        if start.source is None:
            trial.check(start.how == "set", f"{start.weight} is {start.how}, but from_attention names no source")
            continue
        trial.check(start.source in attention.weights, f"{start.weight}: the attention has no {start.source}")
        source, value = attention.weights[start.source], start.value
        rows = set(map(tuple, source.flatten(1).tolist()))
        right = {
            "copied": torch.equal(value, source),
            "repeated": len(value) > len(source) and set(map(tuple, value.flatten(1).tolist())) == rows,
            "part": set(map(tuple, value.flatten(1).tolist())) < rows,
        }.get(start.how, False)
        trial.check(right, f"{start.weight} is not {start.how} from {start.source}")


def _again(trial: LayerUnderTest, attention: AttentionWeights, given: list[Start]) -> None:
    """The same answer to the same question, also without values."""
    before = {name: weight.clone() for name, weight in attention.weights.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        again = list(trial.block.from_attention(attention, trial.dims))
    alike = len(again) == len(given) and all(map(_same, given, again))
    trial.check(alike, "from_attention gives another answer the second time")
    kept = all(torch.equal(weight, before[name]) for name, weight in attention.weights.items())
    trial.check(kept, "from_attention changes the attention's weights")
    empty = attention._replace(weights={name: weight.to("meta") for name, weight in attention.weights.items()})
    shapes = [(start.weight, start.value.shape, start.how) for start in trial.block.from_attention(empty, trial.dims)]
    trial.check(
        shapes == [(start.weight, start.value.shape, start.how) for start in given],
        "from_attention gives other weights on the meta device",
    )


def _same(one: Start, other: Start) -> bool:
    return (one.weight, one.begin) == (other.weight, other.begin) and torch.equal(one.value, other.value)


def _matters(trial: LayerUnderTest, attention: AttentionWeights, given: list[Start]) -> None:
    """Each weight that is taken decides the output. All others are random: a gate that begins closed would hide it."""
    x, own = trial.input(1, TOKENS), trial.layer.state_dict()
    before = {name: weight.clone() for name, weight in own.items()}
    y = _output(trial, own, given, x)
    for start in (start for start in given if start.source):
        for row in sorted({0, len(start.value) - 1}):
            changed = start.value.clone()
            changed[row] += 0.1
            other = [one._replace(value=changed) if one is start else one for one in given]
            said = f"row {row} of {start.source} is taken as {start.weight}, which the layer does not multiply with"
            trial.check(not torch.allclose(_output(trial, own, other, x), y, rtol=0, atol=1e-12), said)
    trial.layer.load_state_dict(before)


@torch.no_grad()
def _output(trial: LayerUnderTest, own: Mapping[str, Tensor], given: list[Start], x: Tensor) -> Tensor:
    """The layer's output with what is taken from the attention in its place."""
    for start in (start for start in given if start.source):
        own[start.weight][start.begin : start.begin + len(start.value)].copy_(start.value)
    return trial.run(x)[0]


def _written_out(attention: AttentionWeights) -> AttentionWeights:
    """The same attention with keys and values of every head, written out without `repeat`."""
    heads, group = attention.heads, attention.heads // attention.kv_heads
    weights = dict(attention.weights)
    for name in ("k.weight", "v.weight"):
        of = weights[name].split(attention.head)
        weights[name] = torch.cat([of[head // group] for head in range(heads)])
    return attention._replace(kv_heads=heads, weights=weights)
