"""A run to evaluate: it is checked first, and its weights are read when they are needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from hybridkit.data.recipe_data import is_single, validation_names
from hybridkit.data.tokenizer import Tokenizer
from hybridkit.data.tokenizer_choice import run_tokenizer
from hybridkit.evaluation import ablation as ablate
from hybridkit.evaluation.cut import Cut, Held, check_cut
from hybridkit.evaluation.provenance import EvalText, Origin, open_eval_text, open_named_text, run_origin
from hybridkit.evaluation.request import EvalRequest
from hybridkit.model.loading import load_model, placed, plan, weights_file
from hybridkit.model.model import Model
from hybridkit.model.plan import Plan
from hybridkit.recipe.files import Recipe
from hybridkit.registry.registry import Registry
from hybridkit.runs.manifest import Manifest
from hybridkit.runs.plugin_copies import code_of, hashes
from hybridkit.runs.run import Run, Which
from hybridkit.system.choices import PrecisionChoice
from hybridkit.system.errors import UserError
from hybridkit.system.machine import choose_device


@dataclass(frozen=True)
class EvalTarget:
    """A run, or a run in which the layers of one kind output zero, or forget what lies behind a cut."""

    run: Run
    recipe: Recipe
    plan: Plan
    tokenizer: Tokenizer
    origin: Origin
    registry: Registry  # that knows the run's own plug-ins
    lacking: tuple[str, ...] = ()  # what the run has no record of
    cut: Cut | None = None
    average: bool = False  # the running mean of the weights

    @property
    def silenced(self) -> str | None:
        """Blocks whose output is zeroed."""
        return self.origin.silenced

    @property
    def name(self) -> str:
        """Its name in tables."""
        without = f" without {self.silenced}" if self.silenced else ""
        cut = f", {self.cut}" if self.cut else ""
        return f"{self.run.path}{', averaged weights' if self.average else ''}{without}{cut}"

    @property
    def folder(self) -> Path:
        """The folder of its results."""
        return self.run.path / "eval"

    @property
    def trained_windows(self) -> str:
        """The window policies of its stack as a pattern says them; empty where it has none."""
        return ", ".join(dict.fromkeys(_said(policy) for policy in self.plan.policies if policy))

    @cached_property
    def text(self) -> EvalText:
        """Its text. Raises UserError where that cannot be read."""
        return open_eval_text(self.run, self.recipe, self.origin.trained_text, self.registry)

    def texts(self, sources: Sequence[str]) -> list[EvalText]:
        """The texts that are read: those named, or its own. Raises UserError where one cannot be read."""
        if not sources:
            return [self.text]
        return [open_named_text(self.run, self.recipe, source, self.registry) for source in sources]

    def notes(self, request: EvalRequest) -> Iterator[str]:
        """What a reader must know of its figures."""
        text = self.text if request.perplexity and not request.texts else None
        known = {"tokenizer"} if text and text.same else set()  # the digest of the text covers it
        if missing := [name for name in self.lacking if name not in known]:
            yield (
                f"{self.run.path} keeps no record of its {' and '.join(missing)}, as older versions did not: whether"
                " they are those of its training cannot be verified"
            )
        if text and not text.same:
            yield (
                f"{self.run.path}: the text of data.source is not what this run was trained on (digest"
                f" {text.digest} now, {self.origin.trained_text} in the run), so that these figures are of"
                " other text, parts of which the run may have been trained on"
            )
        if text and not is_single(self.recipe.data):
            name = validation_names(self.recipe.data)[0].removeprefix("val_loss.")
            yield f"{self.run.path}: the held-out text is that of {name} alone; --text FILE reads another"

    @contextmanager
    def model(self, device: str = "auto", precision: PrecisionChoice | None = None) -> Iterator[Model]:
        """The model on a device (`placed`), ablated if asked; the run may be training at the same time."""
        loaded = placed(load_model(self.run.path, self.origin.step, self.average), choose_device(device), precision)
        with ablate.ablated(loaded, self.silenced) as model:
            yield model


def open_eval_target(
    path: Path,
    windows: tuple[int | None, ...] = (None,),
    silenced: str | None = None,
    checkpoint: Which = None,
    cut: Cut | None = None,
    average: bool = False,
) -> EvalTarget:
    """A checkpoint of the run in a folder (`Run.chosen`). `average`: the running mean of its weights in their place.

    Raises UserError where it holds no valid one, or the questions do not suit it.
    """
    run = Run(path)
    loaded = run.recipe
    file = weights_file(path, loaded.recipe, average)
    _, manifest = run.chosen(checkpoint, file)
    tokenizer = run_tokenizer(run, loaded.recipe.rules, loaded.registry)
    compiled = plan(loaded, vocab=max(tokenizer.vocab, loaded.recipe.model.vocab or 0))
    if any(windows) and not compiled.has_windows:
        raise UserError(f"--windows: no block of {path} ({compiled.pattern}) has a window; leave --windows out")
    if silenced is not None:
        ablate.check_ablation(compiled, silenced)
    if cut:
        check_cut(compiled, cut)
    code = hashes(code_of(compiled.entries))
    origin = run_origin(loaded.recipe, manifest, file, tokenizer.digest, code, silenced)
    origin = replace(origin, cut=str(cut) if cut else None)
    lacking = tuple(_lacking(manifest, code))
    return EvalTarget(run, loaded.recipe, compiled, tokenizer, origin, loaded.registry, lacking, cut, average)


def open_changed_targets(
    path: Path,
    request: EvalRequest,
    checkpoint: Which,
    silenced: Iterable[str] = (),
    cuts: Mapping[Held, Sequence[int]] = {},
) -> list[EvalTarget]:
    """A run as it is, then without each of the blocks `silenced`, then with each of the cuts, at distances in tokens.

    Raises UserError as `open_eval_target` does.
    """
    opened = partial(open_eval_target, path, request.windows, checkpoint=checkpoint, average=request.average)
    wanted = [Cut(held, distance) for held, distances in cuts.items() for distance in distances]
    return [opened(), *(opened(silenced=name) for name in silenced), *(opened(cut=cut) for cut in wanted)]


def _lacking(manifest: Manifest, code: dict[str, str]) -> Iterator[str]:
    """Parts of a run that an older version used but did not record."""
    if manifest.tokenizer is None:
        yield "tokenizer"
    if manifest.code is None and code:
        yield "plug-ins"


def _said(window: object) -> str:
    return str(window).removeprefix("fixed(").removesuffix(")") if str(window).startswith("fixed(") else str(window)
