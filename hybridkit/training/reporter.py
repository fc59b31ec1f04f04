"""A callback that people watch: it also shows messages, and how far the text is prepared."""

from hybridkit.training.callback import Callback


class Reporter(Callback):
    """Shows progress; hybridkit.report.progress does it in terminals and in log files."""

    def preparing(self, what: str, done: int, total: int | None) -> None:
        """The corpus is being prepared: bytes done, of `total` where that is known."""

    def doing(self, what: str) -> None:
        """Steps pause for something that may take a while: `validating`."""

    def finished(self) -> None:
        """The last step is done: what follows is said of the whole run."""

    def message(self, text: str) -> None:
        """Something to know, in a line."""


class Silent(Reporter):
    """Shows nothing."""
