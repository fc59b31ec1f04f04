"""Weights in bf16, cast once a step.

Under autocast torch casts an fp32 weight at every use, once more for each micro-batch and recomputation. Here the model
that runs is a copy. It shares all else with the model that is trained, and has bf16 copies of those weights that
autocast would cast. They are filled at the beginning of a step, and their gradients are added to those of the fp32
weights. So values and gradients are those of autocast, bit for bit.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hybridkit.model.model import Model

CAST = "ToCopyBackward0"  # autograd's node of a cast
_OWNER = "AccumulateGrad"  # its node of a weight


class NarrowWeights:
    """`model` with bf16 weights where autocast multiplies in bf16: `working`, which trains `model`."""

    def __init__(self, model: Model, names: Sequence[str]) -> None:
        own = dict(model.named_parameters())
        self._wide = [own[name] for name in names]
        self._narrow = [nn.Parameter(weight.detach().to(torch.bfloat16)) for weight in self._wide]
        taken: dict[int, object] = {id(tensor): tensor for tensor in [*own.values(), *model.buffers()]}
        taken |= {id(wide): narrow for wide, narrow in zip(self._wide, self._narrow, strict=True)}
        taken |= {id(shared): shared for shared in (model.plan, model.tokenizer, model.recipe)}
        self.working: Model = copy.deepcopy(model, taken)
        for wide, narrow in zip(self._wide, self._narrow, strict=True):
            narrow.register_post_accumulate_grad_hook(_adds_to(wide))

    @torch.no_grad()
    def refresh(self) -> None:
        """Cast the weights as they are now."""
        torch._foreach_copy_([*self._narrow], [*self._wide])


def _adds_to(wide: nn.Parameter):  # type: ignore[no-untyped-def]  # torch's hook
    def add(narrow: Tensor) -> None:
        grad, narrow.grad = narrow.grad, None
        assert grad is not None
        if wide.grad is None:
            wide.grad = grad.to(wide.dtype)
        else:
            wide.grad.add_(grad)

    return add


def narrow_names(model: Model) -> list[str]:
    """The weights of the stack that autocast casts at every use, found by a run of each distinct layer on the CPU."""
    of_entry, names = dict[object, set[str]](), list[str]()
    for index, (entry, layer) in enumerate(zip(model.plan.entries, model.layers, strict=True)):
        if entry not in of_entry:
            of_entry[entry] = _cast_weights(layer, model.plan.dims.width)
        names += [f"layers.{index}.{name}" for name, _ in layer.named_parameters() if name in of_entry[entry]]
    return names


def _cast_weights(layer: nn.Module, width: int) -> set[str]:
    weights = dict(layer.named_parameters())
    with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16):
        y, _ = layer(torch.zeros(1, 2, width), None, None, None)
    users = _users(y)
    return {name for name, weight in weights.items() if users.get(id(weight)) == {CAST}}


def _users(y: Tensor) -> dict[int, set[str]]:
    """By weight, the names of the nodes of autograd's graph that take it."""
    found, seen, waiting = dict[int, set[str]](), set(), [y.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for after, _ in node.next_functions:
            if after is not None and after.name().endswith(_OWNER):
                weight: Tensor = after.variable  # type: ignore[attr-defined]  # torch's stubs do not know this node
                found.setdefault(id(weight), set()).add(node.name())
            waiting.append(after)
    return found
