"""A model in which other layers stand in the places of some, for a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from hybridkit.block import Layer
from hybridkit.model.model import Model


@contextmanager
def replaced_layers(model: Model, chosen: Sequence[bool], make: Callable[[Layer], Layer]) -> Iterator[None]:
    """In this context, `make(layer)` stands for the layer of every chosen branch; `chosen` has an item a branch."""
    places = [(entry, place) for entry in model.layers for place in range(len(entry.layers))]
    kept = [(entry, place, entry.layers[place]) for entry, place in itertools.compress(places, chosen)]
    for entry, place, own in kept:
        entry.replace_layer(place, make(own))
    try:
        yield
    finally:
        for entry, place, own in kept:
            entry.replace_layer(place, own)
