"""The stages of a conversion that takes a second, and the runs that it leaves."""

from collections.abc import Callable
from pathlib import Path

from hybridkit.convert.conversion import Conversion
from hybridkit.runs.run import Run

STAGES = [
    {"loss": "hidden", "steps": 4, "lr": 1e-2},
    {"loss": {"kl": 0.9, "ce": 0.1}, "steps": 4, "lr": 3e-3, "top_k": 20, "cache": True},
    {"loss": "ce", "steps": 3, "sequence": 32, "lr": 1e-3},
]

Change = Callable[..., dict[str, object]]
Convert = Callable[..., Conversion]


def stages(folder: Path) -> list[Run]:
    """The runs of a conversion, from the mapped weights to the last stage."""
    return [*(Run(path) for path in sorted((folder / "stages").iterdir()) if path.is_dir()), Run(folder)]
