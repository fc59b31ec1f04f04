"""`source: hf:NAME[@REVISION][:SPLIT[:CONFIG]]`: a dataset of the Hugging Face hub, streamed."""

from __future__ import annotations

import importlib
import re
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Self

from hybridkit.data.readers import EMPTY, field_of
from hybridkit.data.source import TextSource
from hybridkit.system.errors import MissingExtra, UserError
from hybridkit.system.network import NO_ADDRESS, hub_if_reachable

_SPEC = re.compile(r"hf:([^@:\[\]]+)(?:@([^:\[\]]+))?(?::([^:\[\]]+)(?:\[:(\d+)\])?(?::([^:\[\]]+))?)?")
_SAID = 300  # characters of another library's message


class HuggingFace(TextSource):
    """Rows of a dataset: `hf:NAME[@REVISION][:SPLIT[:CONFIG]]`, SPLIT as `train` or `train[:1000]`.

    Its fingerprint is this text, so a dataset that was read once is not looked up again; a revision fixes what is read.
    """

    spec: str  # the whole text

    @classmethod
    def parse(cls, text: str) -> Self | None:
        return cls(spec=text) if text.startswith("hf:") else None

    def fingerprint(self, field: str) -> object:
        return [self.spec, field]

    def documents(self, field: str, skipped: Counter[str]) -> Iterator[bytes]:
        if not (parts := _SPEC.fullmatch(self.spec)):
            raise UserError(
                f"data.source: {self.spec} is not hf:NAME[@REVISION][:SPLIT[:CONFIG]], SPLIT as train[:1000]"
            )
        name, revision, split, count, config = parts.groups()
        try:
            datasets: Any = importlib.import_module("datasets")
        except ImportError:
            raise MissingExtra("datasets", "hf") from None
        reachable = True
        try:
            with hub_if_reachable(*_settings(datasets)) as reachable:
                rows = datasets.load_dataset(name, config, split=split or "train", revision=revision, streaming=True)
                for number, row in enumerate(islice(rows, int(count) if count else None), start=1):
                    if document := field_of(row, field, f"{self.spec}, row {number}"):
                        yield document
                    else:
                        skipped[EMPTY] += 1
        except UserError:
            raise
        except Exception as error:  # the library, its readers and the network raise anything
            said = " ".join(str(error).split())[:_SAID] or type(error).__name__
            said = said if reachable or Path(name).exists() else NO_ADDRESS
            raise UserError(f"data.source: cannot read {self.spec}: {said}") from error


def _settings(datasets: Any) -> Iterator[Any]:
    """The modules that say whether the Hub is asked."""
    yield getattr(datasets, "config", None)
    if "huggingface_hub.constants" in sys.modules:
        yield sys.modules["huggingface_hub.constants"]
