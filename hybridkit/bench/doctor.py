"""What works on this machine: versions, extras, devices, and the kernel that each block will use."""

import importlib.metadata
import importlib.util
import platform
from typing import Any

import torch

from hybridkit.registry.kinds import BLOCK
from hybridkit.registry.registry import REGISTRY
from hybridkit.system.machine import choose_precision

CORE = (
    *("torch", "mlstm_kernels", "pydantic", "networkx", "rich", "lark", "PyYAML", "safetensors", "tokenizers"),
    *("typer", "fvcore", "wonderwords", "matplotlib", "tensorboard"),
)
EXTRAS = {
    "deepspeed": ("deepspeed",),
    "hf": ("transformers", "datasets"),
    "harness": ("lm_eval",),
    "search": ("optuna",),
    "triton": ("triton",),
    "flash": ("flash-attn",),
    "notebook": ("pandas",),
    "fla": ("flash-linear-attention", "triton"),
}


def examine() -> dict[str, Any]:
    """Everything `hybridkit doctor` says, as plain data."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kernels = {}
    for name in REGISTRY.names(BLOCK):
        kernel, reason = REGISTRY.block(name).kernel(device)
        kernels[name] = {"kernel": kernel, "reason": reason}
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in CORE},
        "extras": {extra: {name: _version(name) for name in names} for extra, names in EXTRAS.items()},
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "precision": choose_precision("auto", device),
        "kernels": kernels,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
