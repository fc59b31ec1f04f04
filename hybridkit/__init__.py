"""Hybrid language models as one line: `hybridkit.build("[swa:128, mlstm]*2", width=64)`, `hybridkit.load("runs/x")`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybridkit.api.models import build, load

__all__ = ["build", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Lazy, since both import torch: `import hybridkit` alone stays quick.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hybridkit.api import models

    return getattr(models, name)
