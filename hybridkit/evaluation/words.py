"""The request that the words of `hybridkit eval`, or of `trial.evaluate`, mean: lists and sizes are read here."""

from __future__ import annotations

from typing import Any

from hybridkit.evaluation.request import RULER_LENGTHS, EvalRequest
from hybridkit.evaluation.task_names import task_names
from hybridkit.recipe.schema import read_size
from hybridkit.system.errors import UserError

_MAX_SIZE = 1 << 30  # tokens


def read_request(
    *,
    context: str = "",
    needles: str = "",
    lengths: str = "",
    windows: str = "",
    recall: str = "",
    tasks: str = "",
    **fields: Any,
) -> EvalRequest:
    """The request of options with the same names; `fields` are those of EvalRequest. Raises UserError."""
    return EvalRequest(
        context=_one_size("--context", context),
        tasks=task_names(split_words("--needles", needles)),
        lengths=read_sizes("--lengths", lengths or (RULER_LENGTHS if needles else "")),
        windows=read_sizes("--windows", windows) or (None,),
        gaps=read_sizes("--recall", recall, least=0),
        harness=tuple(dict.fromkeys(split_words("--tasks", tasks))),
        **fields,
    )


def split_words(option: str, text: str) -> list[str]:
    """The words between the commas of an option; none where it is not given. Raises UserError for an empty one."""
    words = [word.strip() for word in text.split(",")] if text else []
    if not all(words):
        raise UserError(f"{option} {text}: has an empty item; write the items with a comma between them")
    return words


def read_sizes(option: str, text: str, least: int = 1) -> tuple[int, ...]:
    """Sizes such as `128,16k,1M`, each once. Raises UserError."""
    sizes = []
    for part in split_words(option, text):
        try:
            sizes.append(read_size(part))
        except ValueError as error:
            raise UserError(f"{option} {text}: {part} {error}") from None
        if not least <= sizes[-1] <= _MAX_SIZE:
            raise UserError(f"{option} {text}: {sizes[-1]} should be at least {least} and at most {_MAX_SIZE}")
    return tuple(dict.fromkeys(sizes))


def _one_size(option: str, text: str) -> int | None:
    """The size; None where the option is not given. Raises UserError for a list."""
    sizes = read_sizes(option, text)
    if len(sizes) > 1:
        raise UserError(f"{option} {text}: should be one size, not a list")
    return sizes[0] if sizes else None
