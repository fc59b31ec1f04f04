"""What DeepSpeed itself says of a configuration, before anything is started.

DeepSpeed publishes no list of its settings, passes over those that it does not know, and checks the types of only some.
So its config class is given a dictionary that remembers what it is asked for.
"""

from __future__ import annotations

from collections.abc import KeysView, Mapping, Sequence
from typing import Any

from deepspeed.runtime.config import DeepSpeedConfig
from pydantic import ValidationError

from hybridkit.system.errors import UserError
from hybridkit.system.pydantic_errors import first_error, unknown_key

WHERE = "train.deepspeed"
KINDS: dict[type, tuple[tuple[type, ...], str]] = {bool: ((bool,), "true or false"), float: ((int, float), "a number")}
# the type of a default: which types a value may have in its place, and how that is said


class _Asked(dict[str, Any]):
    """A configuration, and `defaults`: of every key that was asked for, the value that takes its place, if any."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        super().__init__(content)
        self.defaults: dict[str, Any] = {}

    def get(self, key: str, default: Any = None) -> Any:
        self.defaults[key] = default
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.defaults.setdefault(str(key), None)
        return super().__contains__(key)

    def keys(self) -> KeysView[str]:  # type: ignore[override]  # dict's own does not call __contains__
        return KeysView(self)


def check_against(settings: Mapping[str, Any], said: Sequence[str]) -> None:
    """Raises UserError for the first of the keys `said` that DeepSpeed does not know, or whose value it cannot take."""
    held = {key: value for key, value in settings.items() if key not in said}
    defaults = _read(held, "").defaults
    for key in said:
        if key not in defaults:
            raise UserError(unknown_key(WHERE, key, key, sorted(defaults)))
        kinds, kind = KINDS.get(type(defaults[key]), ((), ""))
        if kind and type(settings[key]) not in kinds:
            raise UserError(f"{WHERE}: {key}: should be {kind}, not {settings[key]}")
        held[key] = settings[key]
        _read(held, key)


def _read(settings: Mapping[str, Any], last: str) -> _Asked:
    """The settings as DeepSpeed's config class reads them, whatever it raises for those of the key `last`."""
    asked = _Asked(settings)
    try:
        DeepSpeedConfig(asked)
    except ValidationError as error:
        raise UserError(f"{WHERE}: {last}.{first_error(error)}") from error
    except Exception as error:
        raise UserError(f"{WHERE}: {last}: DeepSpeed cannot read {settings.get(last)}: {error}") from error
    return asked
