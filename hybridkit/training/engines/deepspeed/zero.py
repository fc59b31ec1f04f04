"""The stages of ZeRO behind one interface: where each keeps gradients, weights and the optimizer's moments.

Every method is called on all ranks in the same order, and returns the whole tensor or number on each of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.utils import combine_grad_norm_groups
from deepspeed.runtime.zero import GatheredParameters
from deepspeed.runtime.zero.stage_1_and_2 import INITIAL_MICRO_STEP_ID
from deepspeed.utils import (
    safe_get_full_optimizer_state,
    safe_set_full_optimizer_state,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import get_total_norm

MOMENTS = ("exp_avg", "exp_avg_sq")


class Zero(ABC):
    """A stage's arithmetic around DeepSpeed's step; as written here, for weights that every rank holds whole."""

    def __init__(self, engine: DeepSpeedEngine) -> None:
        self._engine = engine
        self._zero = engine.optimizer
        self._optimizer = engine.basic_optimizer

    @abstractmethod
    def norm(self) -> float:
        """Of the whole gradient that the next step will take, before clipping; inf where it is not finite."""

    @abstractmethod
    def zero_grad(self) -> None:
        """Drop that gradient."""

    @abstractmethod
    def set_moment(self, parameter: nn.Parameter, what: str, value: Tensor) -> None:
        """Overwrite one of the moments. Every rank passes the whole; `set_steps` was called before."""

    @abstractmethod
    def _flats(self) -> Iterator[Tensor]:
        """The tensors that this rank's AdamW knows as its parameters."""

    def moments(self, parameter: nn.Parameter) -> tuple[str, ...]:
        """What the optimizer keeps of a parameter, beside the number of updates where it keeps AdamW's."""
        return MOMENTS

    def shape(self, parameter: nn.Parameter) -> torch.Size:
        """The whole parameter's."""
        return parameter.shape

    def weight(self, parameter: nn.Parameter) -> Tensor:
        """The whole parameter."""
        return parameter.detach()

    @torch.no_grad()
    def set_weight(self, parameter: nn.Parameter, value: Tensor) -> None:
        """Overwrite the whole parameter; `refresh` is called after the last one."""
        parameter.copy_(value)

    def refresh(self) -> None:
        """Bring the optimizer's copy of the weights up to date with them."""
        self._zero.refresh_fp32_params()

    def moment(self, parameter: nn.Parameter, what: str) -> Tensor:
        """One of the moments of a parameter, whole."""
        return safe_get_full_optimizer_state(parameter, what)

    def steps(self, parameter: nn.Parameter) -> int:
        """The number of updates that made the moments of a parameter: here of all, which are updated at once."""
        return max((int(state["step"]) for state in self._optimizer.state.values() if "step" in state), default=0)

    def set_steps(self, steps: Mapping[Tensor, int]) -> None:
        """Make the moments where there are none yet, and set the number of updates that made each parameter's.

        Where AdamW makes them, DeepSpeed does not know those of the second parameter group and later ones.
        """
        for flat in self._flats():
            state: dict[str, Any] = self._optimizer.state[flat]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=flat.device)
                state.update((what, torch.zeros_like(flat)) for what in MOMENTS)
            state["step"].fill_(self._steps_of(flat, steps))

    def _steps_of(self, flat: Tensor, steps: Mapping[Tensor, int]) -> int:
        """The number for one of `_flats`, which may hold parts of several parameters."""
        return max(steps.values(), default=0)


class Replicated(Zero):
    """Stage 0: every rank holds everything, and gradients are averaged. A weight that was frozen has fewer updates."""

    def __init__(self, engine: DeepSpeedEngine) -> None:
        super().__init__(engine)
        self._moments = {
            parameter: group.get("moments", MOMENTS)
            for group in self._optimizer.param_groups
            for parameter in group["params"]
        }

    def moments(self, parameter: nn.Parameter) -> tuple[str, ...]:
        return self._moments[parameter]

    def _flats(self) -> Iterator[Tensor]:
        yield from (parameter for parameter, names in self._moments.items() if names == MOMENTS)

    def steps(self, parameter: nn.Parameter) -> int:
        return int(self._optimizer.state[parameter]["step"])

    def _steps_of(self, flat: Tensor, steps: Mapping[Tensor, int]) -> int:
        return steps.get(flat, 0)

    def set_steps(self, steps: Mapping[Tensor, int]) -> None:
        super().set_steps(steps)
        for parameter, names in self._moments.items():
            if names != MOMENTS and not self._optimizer.state[parameter]:
                self._optimizer.state[parameter].update((what, torch.zeros_like(parameter)) for what in names)

    def norm(self) -> float:
        return get_total_norm([p.grad for p in self._engine.module.parameters() if p.grad is not None]).item()

    def zero_grad(self) -> None:
        self._engine.zero_grad()

    def refresh(self) -> None:
        """There is no other copy."""

    def moment(self, parameter: nn.Parameter, what: str) -> Tensor:
        return self._optimizer.state[parameter][what]

    def set_moment(self, parameter: nn.Parameter, what: str, value: Tensor) -> None:
        self._optimizer.state[parameter][what].copy_(value)


class Partitioned(Zero):
    """Stages 1 and 2: each rank steps a stretch of all weights laid end to end, and holds the moments of it alone."""

    def _flats(self) -> Iterator[Tensor]:
        yield from self._zero.single_partition_of_fp32_groups

    def norm(self) -> float:
        return float(self._zero.scaled_global_norm())

    def zero_grad(self) -> None:
        """As DeepSpeed's own step does with a gradient that overflowed."""
        zero = self._zero
        zero.micro_step_id = INITIAL_MICRO_STEP_ID
        zero.zero_grad(set_to_none=True)
        zero._release_preflattened_grad_buffers()
        for index in zero.averaged_gradients:
            zero.averaged_gradients[index] = None
            zero.all_grad_tensors[index] = None
        if zero.cpu_offload:
            zero._offload_accumulated_param_ids = set()
            zero.reset_cpu_buffers()

    def set_steps(self, steps: Mapping[Tensor, int]) -> None:
        super().set_steps(steps)
        self._zero._lazy_init_hp_params_optimizer_state()

    def set_moment(self, parameter: nn.Parameter, what: str, value: Tensor) -> None:
        safe_set_full_optimizer_state(parameter, value, what)


class Sharded(Zero):
    """Stage 3: each rank holds its share of every parameter, which is gathered while a layer needs it."""

    def _flats(self) -> Iterator[Tensor]:
        yield from self._zero.fp32_partitioned_groups_flat

    def norm(self) -> float:
        return float(combine_grad_norm_groups(self._zero._get_norm_groups()))

    def zero_grad(self) -> None:
        self._zero._overflow_clean_up(1)

    def shape(self, parameter: nn.Parameter) -> torch.Size:
        return parameter.ds_shape  # type: ignore[attr-defined]

    def weight(self, parameter: nn.Parameter) -> Tensor:
        with GatheredParameters([parameter]):
            return parameter.detach().clone()

    @torch.no_grad()
    def set_weight(self, parameter: nn.Parameter, value: Tensor) -> None:
        with GatheredParameters([parameter], modifier_rank=0):
            parameter.copy_(value)

    def set_moment(self, parameter: nn.Parameter, what: str, value: Tensor) -> None:
        size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
        first = size * torch.distributed.get_rank()
        mine = value.flatten()[first : first + size]  # the last ranks' shares may be longer than what is left
        safe_set_local_optimizer_state(parameter, F.pad(mine, (0, size - mine.numel())), what)


STAGES: tuple[type[Zero], ...] = (Replicated, Partitioned, Partitioned, Sharded)
