"""What `--needles` may say: names of tasks, and of groups of them."""

from __future__ import annotations

from collections.abc import Iterable

from hybridkit.evaluation.ruler import GROUPS
from hybridkit.evaluation.task import TASK
from hybridkit.registry.registry import REGISTRY
from hybridkit.system.errors import UserError, nearest


def task_names(names: Iterable[str]) -> tuple[str, ...]:
    """The tasks that names, RULER's groups (`niah_single`) and `all` stand for, each once. Raises UserError."""
    known = dict.fromkeys([*GROUPS["all"], *REGISTRY.names(TASK)])
    found: list[str] = []
    for name in names:
        chosen = GROUPS.get(name.strip(), (name.strip(),))
        if chosen[0] not in known:
            close = nearest(chosen[0], [*known, *GROUPS])
            hint = f"did you mean `{close}`? Known" if close else "known"
            raise UserError(f"--needles {name}: no such task; {hint} are {', '.join([*GROUPS, *known])}")
        found += chosen
    return tuple(dict.fromkeys(found))
