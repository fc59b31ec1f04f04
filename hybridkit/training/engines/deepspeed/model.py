"""What the DeepSpeed engine starts from: its process group, and a model that is sharded while it is built."""

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from deepspeed.runtime.zero import Init
from deepspeed.utils import set_z3_leaf_module
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from hybridkit.data.batches import Batch
from hybridkit.model.model import Model
from hybridkit.model.plan import Plan, Uninitialized
from hybridkit.model.residual import Residual
from hybridkit.recipe.schema import Train
from hybridkit.system.machine import DTYPES, choose_device
from hybridkit.training.compile import for_graphs
from hybridkit.training.engine import Windows
from hybridkit.training.engines.local.engine import initial_model
from hybridkit.training.objective import Objective
from hybridkit.training.optimizer_state import parameter_groups
from hybridkit.training.ranks import Place, place, settle

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}


class Loss(nn.Module):
    """The model and its loss in one forward pass, so that ZeRO-3 gathers the head's weights for it too."""

    def __init__(self, model: Model, compiled: bool, device: torch.device, precision: str) -> None:
        super().__init__()
        self.model = model
        self._autocast = torch.autocast(device.type, DTYPES["bf16"], enabled=precision == "bf16")
        self._compiled = compiled

    def forward(self, objective: Objective, batch: Batch, windows: Windows) -> Tensor:
        """The objective's loss summed over the targets, a scalar."""
        given = for_graphs(self.model.plan, windows, batch.tokens.device) if self._compiled else windows
        with self._autocast:
            return objective(self.model, batch, given)


def join(train: Train) -> tuple[Place, torch.device]:
    """Enter the group of processes that the environment describes; alone where it describes none."""
    here = place(os.environ) or Place(0, 1)
    settle(here)
    device = choose_device(train.device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group(BACKENDS[device.type])
        atexit.register(torch.distributed.destroy_process_group)
    return here, device


def sharded_model(plan: Plan, seed: int, settings: dict[str, Any]) -> Model:
    """`initial_model` with the same weights, of which each rank keeps its share; it holds one whole layer at a time."""
    with _each_layer(lambda layer: Init(module=layer, config_dict_or_path=settings, dtype=torch.float32)):
        model = initial_model(plan, seed)
    Init(module=model, config_dict_or_path=settings, dtype=torch.float32)  # embedding, last norm and head
    for layer in model.layers:
        set_z3_leaf_module(layer, True)  # gathered whole, since a layer may use its parts' weights in any way
    return model


@contextmanager
def _each_layer(act: Callable[[nn.Module], object]) -> Iterator[None]:
    """Within this context, call `act` on every entry of a stack that is built, as soon as its weights are drawn."""

    def registered(owner: nn.Module, name: str, part: nn.Module) -> None:
        if isinstance(part, Residual):
            act(part)

    handle = register_module_module_registration_hook(registered)
    try:
        yield
    finally:
        handle.remove()


def zero_groups(model: Model, weight_decay: float, hidden: bool) -> list[dict[str, Any]]:
    """The groups of the local engine. They follow from shapes, which a sharded parameter no longer has."""
    with torch.device("meta"), Uninitialized():
        shell = Model(model.plan)
    names = {id(parameter): name for name, parameter in shell.named_parameters()}
    own = dict(model.named_parameters())
    groups = parameter_groups(shell, weight_decay, hidden)
    return [{**group, "params": [own[names[id(p)]] for p in group["params"]]} for group in groups]
