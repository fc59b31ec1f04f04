"""Hybrid language models as one line: `hybridkit.build("[swa:128, mlstm]*2")`, `hybridkit.train("quickstart")`.

docs/python.md shows all of it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybridkit.api.conversions import convert_model
    from hybridkit.api.models import build, load
    from hybridkit.api.runs import TrainedRun, costs, evaluate, frame, train

__all__ = ["TrainedRun", "build", "convert_model", "costs", "evaluate", "frame", "load", "train"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Lazy, since models need torch: `import hybridkit` alone stays quick.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "convert_model":
        from hybridkit.api import conversions

        return conversions.convert_model
    if name in ("build", "load"):
        from hybridkit.api import models

        return getattr(models, name)
    from hybridkit.api import runs

    return getattr(runs, name)
