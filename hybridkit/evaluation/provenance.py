"""The origin of an evaluation's figures: hashes of weights, tokenizer, text, code and settings.

Two figures are comparable only if their `fingerprint` is the same.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hybridkit.data.cache import digest_of
from hybridkit.data.recipe_data import feed_source, first_text, is_single, text_digest
from hybridkit.recipe.schema import Data, Recipe
from hybridkit.registry.registry import Registry
from hybridkit.runs.manifest import Manifest
from hybridkit.runs.run import Run
from hybridkit.system.errors import UserError


@dataclass(frozen=True)
class Origin:
    """Of one run, as it is now. Hashes are SHA-256 where nothing else is said."""

    step: int
    weights: str  # of model.safetensors, or of ema.safetensors
    model: str  # digest of pattern, model and rules, as the run's recipe says them
    tokenizer: str  # of the run's own copy, or `bytes`
    trained_text: str  # digest of the tokens that the run was trained on and held out
    code: dict[str, str] = field(default_factory=dict)  # of the plug-ins' files, by name
    silenced: str | None = None  # layers whose output is zeroed
    cut: str | None = None  # what some layers forget, and where

    @property
    def fingerprint(self) -> str:
        """A hash of everything that an answer depends on, besides the question."""
        return digest_of(self._said())

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**self._said(), "fingerprint": self.fingerprint}

    def _said(self) -> dict[str, Any]:
        """The fields; fingerprints of older versions knew no cut."""
        return {name: value for name, value in asdict(self).items() if name != "cut" or value}


def run_origin(
    recipe: Recipe, manifest: Manifest, file: str, tokenizer: str, code: dict[str, str], silenced: str | None
) -> Origin:
    """The origin of the answers of a checkpoint's weights in `file`."""
    said = recipe.model_dump(mode="json", by_alias=True, exclude={"data", "train", "convert"})
    weights = manifest.files[file].sha256
    return Origin(manifest.step, weights, digest_of(said), tokenizer, manifest.data, code, silenced)


@dataclass(frozen=True)
class EvalText:
    """The text that a run is evaluated on, read with the run's own tokenizer."""

    data: Data
    digest: str
    same: bool  # as that of the training, so that its held-out part was never trained on
    source: str | None = None  # as `--text` names it; None: what the run's recipe names

    def to_json(self) -> dict[str, Any]:
        """What a figure says about its text."""
        named = {} if self.source is None else {"source": self.source}
        return {"text": self.digest, "same_text": self.same, **named}


def open_eval_text(run: Run, recipe: Recipe, trained: str, registry: Registry) -> EvalText:
    """The text that a run's recipe names now, and whether it is what the run was `trained` on.

    The tokenizer is the run's own copy; the file or the corpus that it came from may have changed since.
    Raises UserError where the text cannot be read.
    """
    data, rules = recipe.data, recipe.rules
    try:
        if is_single(data) and feed_source(data, registry):
            return EvalText(data, digest_of(data.source), True)
        if (
            is_single(data)
            and data.tokenizer.startswith("train(")
            and (digest := text_digest(data, rules, registry)) == trained
        ):
            return EvalText(data, digest, True)  # as the training left it in the cache
        own = data.model_copy(update={"tokenizer": _own(run)})
        digest = text_digest(own, rules, registry)
        first = first_text(own)
    except UserError as error:
        raise UserError(f"{run.path}: its text is not here: {error} (or leave it out: --no-perplexity)") from error
    return EvalText(first, digest, digest == trained)


def open_named_text(run: Run, recipe: Recipe, source: str, registry: Registry) -> EvalText:
    """All of a text that `--text` names, read with the run's own tokenizer. Raises UserError."""
    changed = {"source": source, "validation": 1.0, "tokenizer": _own(run)}
    data = first_text(recipe.data).model_copy(update=changed)
    try:
        if feed_source(data.model_copy(update={"tokenizer": "bytes"}), registry):
            raise UserError("makes its own sequences; name a file, a folder or a glob of text")
        return EvalText(data, text_digest(data, recipe.rules, registry), False, source)
    except UserError as error:
        raise UserError(f"--text {source}: {error}") from error


def _own(run: Run) -> str:
    from hybridkit.data.tokenizer import SAVED

    file = Path(run.path, SAVED)
    return str(file) if file.exists() else "bytes"
