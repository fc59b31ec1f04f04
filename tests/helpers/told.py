"""A reporter that remembers, and the type of the function `go` that trains the tiny recipe with it."""

from collections.abc import Callable

from hybridkit.training.reporter import Silent


class Told(Silent):
    """Remembers messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)

    def __contains__(self, part: str) -> bool:
        return any(part in message for message in self.messages)


Go = Callable[..., Told]
