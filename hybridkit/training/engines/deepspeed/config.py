"""What DeepSpeed is told: derived from the recipe, then `train.deepspeed`, which may add but not contradict."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from hybridkit.recipe.schema import Train
from hybridkit.system.errors import MissingExtra, UserError

if TYPE_CHECKING:
    from hybridkit.training.engines.deepspeed import DeepSpeed

UNSET = (False, None, "none")  # values that mean the same as no setting
BUCKET = 1 << 27  # elements of a communication buffer at most: half a gigabyte of fp32

# Settings of DeepSpeed that a field of the recipe decides. A section stands for everything in it.
OWNED = {
    "train_batch_size": "train.batch_tokens",
    "train_micro_batch_size_per_gpu": "train.micro_batch",
    "gradient_accumulation_steps": "train.batch_tokens and train.micro_batch",
    "gradient_clipping": "train.clip",
    "optimizer": "train.lr, train.betas and train.weight_decay",
    "scheduler": "train.schedule",
    "zero_optimization.stage": "train.zero",
    "zero_optimization.offload_optimizer.device": "train.offload",
    "zero_optimization.offload_param.device": "train.offload",
    "bf16": "train.precision",
    "fp16": "train.precision",
    "amp": "train.precision",
    "torch_autocast": "train.precision",
    "activation_checkpointing": "train.recompute",
    "sequence_parallel_size": "train.sequence_parallel",
    "data_types": "train.precision",
}

ELSEWHERE = (
    "tensorboard",
    "wandb",
    "comet",
    "csv_monitor",
    "autotuning",
    "nebula",
)  # sections that write files or send data
PLACES = ("path", "file", "dir")  # how names of settings end that say where something is written


def check_settings(spec: DeepSpeed, train: Train) -> None:
    """Whether a recipe can be trained with DeepSpeed here. Raises UserError, naming the fields.

    DeepSpeed is imported only where `train.deepspeed` says something (`own_config.check_against`).
    """
    if find_spec("deepspeed") is None:
        raise MissingExtra("deepspeed", "deepspeed")
    if train.precision == "fp64":
        raise UserError("train.precision: DeepSpeed trains in fp32 or bf16; for fp64 use train.engine=local")
    if spec.offload != "none" and spec.zero == 0:
        raise UserError(f"train.offload: {spec.offload} needs train.zero of at least 1, not 0")
    if spec.offload == "all" and spec.zero != 3:
        raise UserError(f"train.offload: all moves the weights too, which needs train.zero=3, not {spec.zero}")
    if train.compile is True and spec.zero == 3:
        raise UserError("train.compile: weights that ZeRO gathers layer by layer do not compile; use train.zero=2")
    if train.compile is True and spec.sequence_parallel > 1:
        raise UserError("train.compile: exchanges between ranks do not compile; use train.sequence_parallel=1")
    settings(spec, train, 1)


def settings(spec: DeepSpeed, train: Train, parameters: int) -> dict[str, Any]:
    """DeepSpeed's configuration for a model of so many weights.

    Raises UserError where `train.deepspeed` contradicts another field, says where to write, or is nothing that
    DeepSpeed knows.
    """
    own = _own(spec, train, min(parameters, BUCKET))
    said = dict(_leaves(own))
    for key, value in _leaves(spec.deepspeed):
        if key.partition(".")[0] in ELSEWHERE or key.rpartition(".")[2].endswith(PLACES):
            raise UserError(
                f"train.deepspeed: {key}: nothing may be written elsewhere than in the run folder; leave it out"
            )
        field = _owner(key)
        if field and value not in ([said[key]] if key in said else UNSET):
            raise UserError(f"train.deepspeed: {key}: {value} contradicts {field}, which decides it; leave it out")
    for key, value in spec.deepspeed.items():
        own[key] = _merged(own.get(key), value, key)
    if spec.deepspeed:
        name_accelerator(train)
        from hybridkit.training.engines.deepspeed.own_config import check_against

        check_against(own, [*spec.deepspeed])
    return own


def name_accelerator(train: Train) -> None:
    """For DeepSpeed, which reads it when it is imported."""
    from hybridkit.system.machine import choose_device

    os.environ.setdefault("DS_ACCELERATOR", choose_device(train.device).type)


def _own(spec: DeepSpeed, train: Train, bucket: int) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": spec.zero, "reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    if spec.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if spec.offload == "all":
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 1,  # the trainer cuts batches itself, and says when one is complete
        "gradient_accumulation_steps": 1,
        "gradient_clipping": train.clip or 0.0,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,  # torch's fused AdamW also runs on a CPU, and compiles nothing
    }


def _owner(key: str) -> str | None:
    """The recipe's field that decides a setting of DeepSpeed."""
    return next((field for owned, field in OWNED.items() if f"{key}.".startswith(f"{owned}.")), None)


def _leaves(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _merged(base: Any, over: Any, place: str) -> Any:
    """`over` laid over `base`. Raises UserError, naming the `place`, where only one of them is a mapping."""
    if not isinstance(base, Mapping):
        return over
    if not isinstance(over, Mapping):
        raise UserError(f"train.deepspeed: {place}: should be a mapping of keys to values, not {over}")
    return {**base, **{key: _merged(base.get(key), value, f"{place}.{key}") for key, value in over.items()}}
