"""From a pattern or a run folder to a model that reads and writes."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hybridkit.api.runs import TrainedRun
from hybridkit.inference.language_model import LanguageModel
from hybridkit.model.config import ModelConfig
from hybridkit.model.loading import load_as, placed
from hybridkit.model.plan import compile_pattern
from hybridkit.recipe.schema import ModelOptions
from hybridkit.recipe.section import Combination
from hybridkit.runs.run import Which
from hybridkit.system.choices import NormPlacement, PrecisionChoice
from hybridkit.system.errors import UserError
from hybridkit.system.pydantic_errors import first_error


def build(
    pattern: str,
    *,
    width: int = 256,
    heads: int = 4,
    vocab: int = 257,
    tie: bool = False,
    logit_cap: float | None = None,
    norm_eps: float = 1e-6,
    embedding_scale: float | None = None,
    residual_scale: float = 1.0,
    logit_scale: float = 1.0,
    norm: NormPlacement = "pre",
    branches: Combination = "sum",
) -> LanguageModel:
    """A model with fresh weights, on torch's default device: `hybridkit.build("[swa:128, mlstm]*2", width=64)`.

    The options are those of a recipe's `model:` (docs/recipes.md); mixers are followed by its default FFN.

    Raises UserError for an option that is out of range, and PatternError, a UserError, for a mistake in the pattern.
    """
    options: dict[str, Any] = {
        "tie": tie, "logit_cap": logit_cap, "norm_eps": norm_eps, "embedding_scale": embedding_scale,
        "residual_scale": residual_scale, "logit_scale": logit_scale, "norm": norm, "branches": branches,
    }  # fmt: skip
    try:
        said = ModelOptions(width=width, heads=heads, vocab=vocab, **options)
    except ValidationError as error:
        raise UserError(f"build: {first_error(error)}") from None
    if not isinstance(pattern, str):
        raise UserError(f"build: pattern: should be text, not {pattern!r}")
    if said.vocab is None:
        raise UserError("build: vocab: should be a number of tokens")
    read = {key: getattr(said, key) for key in options}
    return LanguageModel(compile_pattern(pattern, ModelConfig(said.width, said.heads, said.vocab, **read)))


def load(
    run: Path | str | TrainedRun,
    checkpoint: Which = None,
    *,
    average: bool = False,
    precision: PrecisionChoice | None = None,
) -> LanguageModel:
    """The weights of a run's checkpoint on the CPU, with `.tokenizer` and `.recipe` set.

    `checkpoint`: a step, "best" (by `train.best`, or val_loss) or "newest". `average`: the running mean of the weights.
    `precision`: in which the model computes; None: as the weights were saved.

    Nothing is executed but the run's plug-ins, if the user trusts them. Raises UserError where the folder holds no run
    or no valid checkpoint, the weights are another model's, or tokenizer or plug-ins are not the recorded ones.
    """
    model = load_as(LanguageModel, run.path if isinstance(run, TrainedRun) else run, checkpoint, average)
    return placed(model, model.head.weight.device, precision)
