"""A run as something to evaluate: checked first, its weights read only when they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hybridkit.api import load, plan
from hybridkit.compile import Plan
from hybridkit.data.tokenizers import SAVED, Tokenizer, load_tokenizer
from hybridkit.errors import UserError
from hybridkit.evaluate import ablate
from hybridkit.machine import choose_device
from hybridkit.manifest import WEIGHTS
from hybridkit.model import Model
from hybridkit.recipe import Recipe
from hybridkit.rules import CURRENT
from hybridkit.run import Run


@dataclass(frozen=True)
class Subject:
    """A run, or a run with the layers of one kind silenced."""

    run: Run
    recipe: Recipe
    plan: Plan
    tokenizer: Tokenizer
    weights: str  # SHA-256 of the newest valid checkpoint's
    silenced: str | None = None

    @property
    def name(self) -> str:
        """How tables call it."""
        return f"{self.run.path}{f' without {self.silenced}' if self.silenced else ''}"

    @property
    def folder(self) -> Path:
        """Where its results go."""
        return self.run.path / "eval"

    @property
    def trained_windows(self) -> str:
        """The window policies of its stack as a pattern says them; empty where it has none."""
        return ", ".join(dict.fromkeys(_said(entry.window) for entry in self.plan.entries if entry.window))

    @cached_property
    def tokenizer_digest(self) -> str:
        """Differs between any two tokenizers."""
        file = self.run.path / SAVED
        return hashlib.blake2b(file.read_bytes() if file.exists() else b"bytes", digest_size=8).hexdigest()

    @contextmanager
    def model(self, device: str = "auto") -> Iterator[Model]:
        """The model on a device, its layers silenced where they are to be."""
        with ablate.ablated(load(self.run.path).to(choose_device(device)), self.silenced) as model:
            yield model


def open_subject(path: Path, windows: tuple[int | None, ...] = (None,), silenced: str | None = None) -> Subject:
    """The run in a folder. Raises UserError where it holds no valid checkpoint, or the questions do not suit it."""
    run = Run(path)
    loaded = run.recipe
    found = run.newest(WEIGHTS)
    if found.manifest is None:
        run.weights()  # says why there is none
        raise UserError(f"{path} holds no valid checkpoint")
    tokenizer = load_tokenizer(path, loaded.recipe.rules or CURRENT)
    compiled = plan(loaded, vocab=max(tokenizer.vocab, loaded.recipe.model.vocab or 0))
    if any(windows) and not any(entry.window for entry in compiled.entries):
        raise UserError(f"--windows: no block of {path} ({compiled.pattern}) has a window; leave --windows out")
    if silenced:
        ablate.check(compiled, silenced)
    return Subject(run, loaded.recipe, compiled, tokenizer, found.manifest.files[WEIGHTS].sha256, silenced)


def _said(window: object) -> str:
    return str(window).removeprefix("fixed(").removesuffix(")") if str(window).startswith("fixed(") else str(window)
