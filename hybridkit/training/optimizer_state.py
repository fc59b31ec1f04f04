"""An optimizer's parameter groups, and its state as named tensors. Weight decay skips norms, biases and gates."""

from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from hybridkit.block import Layer
from hybridkit.runs.manifest import Invalid


def parameter_groups(model: nn.Module, weight_decay: float, hidden: bool = False) -> list[dict[str, Any]]:
    """Parameter groups: what decays, and what does not (one-dimensional, or named by `Layer.no_weight_decay`).

    `hidden`: of what decays, the matrices of layers, so not embedding and head, are a group of their own.
    """
    layers = [module for module in model.modules() if isinstance(module, Layer)]
    spared = {id(p) for layer in layers for module in layer.no_weight_decay() for p in module.parameters()}
    parts: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for parameter in model.parameters():
        parts[parameter.ndim < 2 or id(parameter) in spared].append(parameter)
    groups = [{"params": part, "weight_decay": decay} for part, decay in zip(parts, (weight_decay, 0.0), strict=True)]
    if hidden:
        inner = {id(p) for layer in layers for p in layer.parameters() if p.ndim == 2}
        matrices = [p for p in parts[0] if id(p) in inner]
        groups[0]["params"] = [p for p in parts[0] if id(p) not in inner]
        groups.insert(0, {"params": matrices, "weight_decay": weight_decay})
    return [{**group, "hidden": hidden and place == 0} for place, group in enumerate(groups) if group["params"]]


def optimizer_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's moments and step counts as `<parameter>.<what>`; empty before the first update. Not copied."""
    return {
        f"{name}.{what}": value
        for name, parameter in model.named_parameters()
        for what, value in sorted(optimizer.state[parameter].items())
    }


def load_optimizer_state(model: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_state` gave, moments in their parameter's type, which may have been another.

    Raises Invalid where it belongs to another model.
    """
    own = dict(model.named_parameters())
    state: dict[Tensor, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, what = key.rpartition(".")
        if name not in own or (what != "step" and value.shape != own[name].shape):
            raise Invalid(f"the optimizer's {key} {list(value.shape)} fits no parameter of this model")
        kind = value.dtype if what == "step" else own[name].dtype
        state.setdefault(own[name], {})[what] = value.to(own[name].device, kind)
    optimizer.state.clear()
    optimizer.state.update(state)
