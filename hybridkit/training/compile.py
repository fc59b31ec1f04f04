"""torch.compile, a layer at a time: equal layers share a graph, and every window of a policy gets its own, once.

torch compiles a function once for every integer, at most 8 times; the limit is raised to what the policies need. A
policy of more than `MANY` windows, or whose windows depend on the length of a row, passes its window as a tensor that
the mask reads: one graph for all.
"""

from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from hybridkit.block import GivenWindow, Window, window_of
from hybridkit.model.loss import HeadLoss, linear_cross_entropy, loss_for_compiler, loss_in_place
from hybridkit.model.model import Model
from hybridkit.model.plan import Plan
from hybridkit.recipe.schema import Train
from hybridkit.system.errors import UserError
from hybridkit.system.notices import tell
from hybridkit.system.terminal import one_line
from hybridkit.training.compile_progress import inductor, watch

MANY = 8
_MODES = 4  # training or evaluation, with or without document starts


def compiles(train: Train, device: torch.device) -> bool:
    """Whether a recipe's layers are compiled: under `auto`, on a GPU."""
    return device.type == "cuda" if train.compile == "auto" else train.compile


def check_compiler(train: Train, device: torch.device) -> None:
    """Raises UserError where layers would be compiled for a CPU, and there is no C++ compiler."""
    if device.type != "cpu" or not compiles(train, device):
        return
    from torch._inductor.cpp_builder import get_cpp_compiler  # imports the compiler: seconds
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise UserError(
            "train.compile: layers are compiled for a CPU by a C++ compiler, and torch finds none here: install g++ or"
            " clang, name one in CXX, or leave train.compile out"
        ) from error


def compile_layers(model: Model, backend: Callable[..., Any] | None = None) -> None:
    """Compile every layer in place; its weights keep their names. `backend`: torch.compile's, by default inductor."""
    entries = set(model.plan.entries)
    graphs = sum(prod(_graphs(window_of(block)) for block in entry.branches) for entry in entries)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MODES * graphs)
    branches = zip(model.branches(), model.plan.branches, strict=True)
    watch({type(layer).__name__: branch.block.name() for layer, branch in branches})
    for layer in model.layers:
        layer.compile(dynamic=False, backend=backend or inductor)
    model.head.cross_entropy = compiled_cross_entropy()


@cache
def compiled_cross_entropy() -> HeadLoss:
    """On a GPU, what follows the head's product is compiled too; as it is on a CPU, and where it does not compile."""
    compiled, broken = torch.compile(loss_for_compiler), list[Exception]()

    def of_slice(logits: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
        try:
            if logits.is_cuda and not broken:
                return compiled(logits, *given)
        except torch._dynamo.exc.TorchDynamoException as error:
            broken.append(error)
            tell(f"the loss is not compiled: {one_line(str(error))[:200]}")
        return loss_in_place(logits, *given)

    return partial(linear_cross_entropy, of_slice=of_slice)


def for_graphs(plan: Plan, windows: Sequence[GivenWindow], device: torch.device) -> list[GivenWindow | Tensor]:
    """The windows as compiled layers on a device take them."""
    return [
        torch.tensor(window, device=device) if policy and _windows(policy) > MANY else window
        for policy, window in zip(plan.policies, windows, strict=True)
    ]


def _graphs(policy: Window | None) -> int:
    windows = _windows(policy) if policy else 1
    return windows if windows <= MANY else 1


@lru_cache(1 << 8)
def _windows(policy: Window) -> int:
    """How many windows a policy has; more than `MANY` where that depends on the length of a row."""
    return MANY + 1 if policy.needs_sequence else len(policy.probabilities())
