"""AdamW over a model's parameters; weight decay spares norms, biases and gates, and reaches embeddings."""

from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW

from hybridkit.block import Layer
from hybridkit.recipe.schema import Train
from hybridkit.runs.manifest import Invalid


def groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: what decays, and what does not (one-dimensional, or named by `Layer.no_weight_decay`)."""
    layers = (module for module in model.modules() if isinstance(module, Layer))
    spared = {id(p) for layer in layers for module in layer.no_weight_decay() for p in module.parameters()}
    parts: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for parameter in model.parameters():
        parts[parameter.ndim < 2 or id(parameter) in spared].append(parameter)
    return [{"params": part, "weight_decay": decay} for part, decay in zip(parts, (weight_decay, 0.0), strict=True)]


def adamw(model: nn.Module, train: Train) -> AdamW:
    """Torch's fused AdamW: one pass over memory, on CPU as well."""
    return adamw_over(groups(model, train.weight_decay), train)


def adamw_over(parameter_groups: list[dict[str, Any]], train: Train) -> AdamW:
    """`adamw` over groups that are made elsewhere."""
    return AdamW(parameter_groups, lr=train.lr, betas=train.betas, fused=True)


def state_of(model: nn.Module, optimizer: AdamW) -> dict[str, Tensor]:
    """Its moments and step counts as `<parameter>.<what>`; empty before the first update. Not copied."""
    return {
        f"{name}.{what}": value
        for name, parameter in model.named_parameters()
        for what, value in sorted(optimizer.state[parameter].items())
    }


def load_state(model: nn.Module, optimizer: AdamW, tensors: dict[str, Tensor]) -> None:
    """Put back what `state_of` gave. Raises Invalid where it belongs to another model."""
    own = dict(model.named_parameters())
    state: dict[Tensor, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, what = key.rpartition(".")
        if name not in own or (what != "step" and value.shape != own[name].shape):
            raise Invalid(f"the optimizer's {key} {list(value.shape)} fits no parameter of this model")
        state.setdefault(own[name], {})[what] = value.to(own[name].device)
    optimizer.state.clear()
    optimizer.state.update(state)
