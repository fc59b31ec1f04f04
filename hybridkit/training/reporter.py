"""What a trainer tells whoever watches."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Reporter(Protocol):
    """Draws progress; hybridkit.report.progress does it for terminals and for log files."""

    def preparing(self, what: str, done: int, total: int | None) -> None:
        """The corpus is being prepared: bytes done, of `total` where that is known."""

    def start(self, run: Path, step: int, steps: int) -> None:
        """Training goes on after `step` of `steps`."""

    def step(self, line: Mapping[str, Any], bits_per_byte: float | None) -> None:
        """An update was made: its metrics line, and the batch's bits per byte."""

    def validation(self, line: Mapping[str, Any]) -> None:
        """The held-out text was evaluated."""

    def message(self, text: str) -> None:
        """Something to know, in a line."""

    def end(self) -> None:
        """Training stops, for whatever reason."""


class Silent:
    """Tells nobody."""

    def preparing(self, what: str, done: int, total: int | None) -> None:
        """Nothing."""

    def start(self, run: Path, step: int, steps: int) -> None:
        """Nothing."""

    def step(self, line: Mapping[str, Any], bits_per_byte: float | None) -> None:
        """Nothing."""

    def validation(self, line: Mapping[str, Any]) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""
