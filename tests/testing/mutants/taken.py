"""Faults of what a block takes from an attention."""

import torch

from hybridkit.block import set_to
from mutants.base import ATTEND, mutant

NAMES = ("q.weight", "k.weight", "v.weight", "out.weight")


def right(self, attention, dims):  # type: ignore[no-untyped-def]
    return [attention.start(name) for name in NAMES]


def rule(change):  # type: ignore[no-untyped-def]
    """The right answer, changed."""
    return lambda self, attention, dims: change(right(self, attention, dims), attention)


def first(**changes):  # type: ignore[no-untyped-def]
    """The first start with other fields: functions of it and the attention."""

    def change(starts, attention):  # type: ignore[no-untyped-def]
        fields = {name: make(starts[0], attention) for name, make in changes.items()}
        return [starts[0]._replace(**fields), *starts[1:]]

    return rule(change)


def tiled(starts, attention):  # type: ignore[no-untyped-def]
    """Shared heads in turn: 0, 1, 0, 1 in place of 0, 0, 1, 1."""
    times = attention.heads // attention.kv_heads
    return [
        one._replace(value=attention.weights[one.source].repeat(times, 1)) if one.how == "repeated" else one
        for one in starts
    ]


def unread(layer):  # type: ignore[no-untyped-def]
    layer.spare = torch.nn.Linear(layer.q.in_features, layer.q.out_features, bias=False)


def overwriting(starts, attention):  # type: ignore[no-untyped-def]
    attention.weights["q.weight"].mul_(2)
    return starts


def rng(starts, attention):  # type: ignore[no-untyped-def]
    return [*starts[1:], set_to("q.weight", torch.randn_like(starts[0].value))]


def measured(starts, attention):  # type: ignore[no-untyped-def]
    """It reads a value, which tensors on the meta device do not have."""
    return starts[: len(starts) + int(starts[0].value.sum().item() > 1e9)]


def silent(self, attention, dims):  # type: ignore[no-untyped-def]
    raise ValueError


RIGHT = mutant("none", ATTEND, from_attention=right).block
MUTANTS = {  # and what the law says of each
    mutant("takes a weight that it has not", ATTEND, from_attention=first(weight=lambda s, a: "query.weight")): (
        "names query.weight, which the layer does not have"
    ),
    mutant("other rows than it has", ATTEND, from_attention=first(value=lambda s, a: s.value[:-1])): (
        "q.weight is not copied from q.weight"
    ),
    mutant("beyond the last row", ATTEND, from_attention=first(begin=lambda s, a: 1)): "from row 1 on",
    mutant("a row twice", ATTEND, from_attention=rule(lambda starts, a: [*starts, starts[0]])): "q.weight twice",
    mutant("says copied of what it scales", ATTEND, from_attention=first(value=lambda s, a: 2 * s.value)): (
        "q.weight is not copied from q.weight"
    ),
    mutant("says copied of another source", ATTEND, from_attention=first(source=lambda s, a: "k.weight")): (
        "q.weight is not copied from k.weight"
    ),
    mutant("names no source", ATTEND, from_attention=first(source=lambda s, a: None)): "names no source",
    mutant("says part of the whole", ATTEND, from_attention=first(how=lambda s, a: "part")): "is not part from",
    mutant("heads in another order", ATTEND, from_attention=rule(tiled)): "shared heads are not repeated",
    mutant(
        "takes what it does not read", ATTEND, built=unread, from_attention=first(weight=lambda s, a: "spare.weight")
    ): "spare.weight, which the layer does not multiply with",
    mutant("draws values", ATTEND, from_attention=rule(rng)): "another answer the second time",
    mutant("changes the attention", ATTEND, from_attention=rule(overwriting)): "changes the attention's weights",
    mutant("needs values", ATTEND, from_attention=rule(measured)): "on meta tensors",
    mutant("refuses without a word", ATTEND, from_attention=silent): "refuses .* without a word",
}
