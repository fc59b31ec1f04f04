"""The DeepSpeed engine: the ranks of a launcher share a model's training with ZeRO (arXiv 1910.02054)."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NoReturn

from pydantic import Field, JsonValue

from hybridkit.recipe.choices import NEEDS_ENGINE
from hybridkit.recipe.schema import Recipe, Train
from hybridkit.system.errors import MissingExtra, UserError
from hybridkit.system.spec import Value
from hybridkit.training.engine import Engine, EngineSpec

if TYPE_CHECKING:
    from hybridkit.cost.memory import PersistentMemory
    from hybridkit.model.plan import Plan
    from hybridkit.training.optimizer import Optimizer


class DeepSpeed(EngineSpec):
    """DeepSpeed, on one or several ranks."""

    many_ranks: ClassVar[bool] = True

    zero: int = Field(default=1, ge=0, le=3, description="DeepSpeed: the ZeRO stage.")
    offload: Literal["none", "optimizer", "all"] = Field(
        default="none", description="DeepSpeed: what lives in host memory."
    )
    deepspeed: dict[str, JsonValue] = Field(
        default={}, description="DeepSpeed: further settings, handed to it as they are."
    )
    sequence_parallel: int = Field(
        default=1, ge=1, le=1 << 20, json_schema_extra=NEEDS_ENGINE,
        description="DeepSpeed: ranks that share each sequence.",
    )  # fmt: skip

    def open(self, plan: Plan, train: Train, optimizer: Optimizer) -> Engine:
        from hybridkit.training.engines.deepspeed.config import check_settings, name_accelerator

        check_settings(self, train)
        if not optimizer.replicable:
            raise UserError("train.optimizer: this optimizer works in a single process only; use train.engine=local")
        name_accelerator(train)
        from hybridkit.training.engines.deepspeed.engine import DeepSpeedEngine

        return DeepSpeedEngine(plan, train, self, optimizer)

    def check(self, recipe: Recipe, ranks: int) -> None:
        from hybridkit.training.engines.deepspeed.config import check_settings

        check_settings(self, recipe.train)
        if recipe.train.optimizer != "adamw" and self.zero:
            raise UserError(
                f"train.optimizer: stage {self.zero} of ZeRO works with adamw alone; for other optimizers use"
                " train.zero=0, or train.engine=local"
            )
        if recipe.train.ema and self.zero == 3:
            raise UserError("train.ema: at stage 3 no rank holds all weights; use train.zero of at most 2")
        if recipe.train.freeze and self.zero:
            raise UserError(
                f"train.freeze: stage {self.zero} of ZeRO updates its share of all weights at once; use train.zero=0,"
                " or train.engine=local"
            )
        if recipe.train.probes and (self.zero == 3 or self.sequence_parallel > 1):
            raise UserError(
                "train.probes: rank 0 measures them with the whole model, which it has at train.zero of at most 2 and"
                " train.sequence_parallel=1"
            )
        if ranks % self.sequence_parallel:
            raise UserError(f"train.sequence_parallel: {self.sequence_parallel} does not divide {ranks} ranks")
        rows = recipe.train.batch_tokens // recipe.data.sequence
        if ranks // self.sequence_parallel > rows:
            raise UserError(
                f"{ranks} ranks cannot share a batch of {rows} sequences (train.batch_tokens / data.sequence): use at"
                f" most {rows * self.sequence_parallel} ranks, or a larger train.batch_tokens"
            )

    def launch(self, hostfile: Path) -> NoReturn:
        """Become DeepSpeed's launcher, which starts this command on every host."""
        places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        program = shutil.which("deepspeed", path=places)
        if program is None:
            raise MissingExtra("deepspeed", "deepspeed")
        own = ["--no_local_rank", "--module", "hybridkit.cli", *sys.argv[1:]]
        os.execv(program, [program, "--hostfile", str(hostfile), *own])

    @property
    def sequence_ranks(self) -> int:
        return self.sequence_parallel

    def persistent_bytes(self, memory: PersistentMemory, ranks: int) -> int:
        return memory.on_rank(self.zero, ranks)

    def manifest_entries(self) -> Mapping[str, Value]:
        """The stage of ZeRO."""
        return {"zero": self.zero}
