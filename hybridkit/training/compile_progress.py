"""What torch.compile is building, told while nothing else happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from hybridkit.system.notices import tell

WORTH = 1.0  # seconds: what takes less is not told
_kinds: dict[str, str] = {}  # by the class of a layer, its name in a pattern


def inductor(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
    """torch's own backend, which remembers what it builds."""
    _Progress.what = kind_of(graph, _kinds) or "a part of a layer"
    made: Callable[..., Any] = torch._dynamo.lookup_backend("inductor")(graph, inputs)
    return made


def kind_of(graph: torch.fx.GraphModule, kinds: Mapping[str, str]) -> str:
    """The blocks whose layers a graph computes, as patterns name them; `kinds` by the class of a layer."""
    found = dict[str, None]()
    for node in graph.graph.nodes:
        for _, cls in node.meta.get("nn_module_stack", {}).values():
            name = str(getattr(cls, "__name__", cls)).rpartition(".")[2]
            if name in kinds:
                found[kinds[name]] = None
    return " | ".join(found)


def watch(kinds: Mapping[str, str]) -> None:
    """From now on, tell what is compiled."""
    _kinds.update(kinds)
    _register()


class _Progress:
    """What torch.compile is at."""

    what, began, announced = "a layer", 0.0, False


def _register() -> None:
    from torch._dynamo.callback import callback_handler  # imports the compiler

    if _begin not in callback_handler.start_callbacks:  # torch._dynamo.reset() forgets them
        callback_handler.register_start_callback(_begin)
        callback_handler.register_end_callback(_end)


def _begin(event: Any) -> None:
    _Progress.began = time.perf_counter()
    if not _Progress.announced:
        tell("compiling layers: every kind, and each of its windows, once ...")
        _Progress.announced = True


def _end(event: Any) -> None:
    seconds = time.perf_counter() - _Progress.began
    if seconds >= WORTH:
        gradient = "gradient of " if "BACKWARD" in str(getattr(event, "callback_trigger", "")) else ""
        tell(f"compiled {gradient}{_Progress.what} in {seconds:.1f} s")
