"""From a pattern, a recipe or a run folder to a model."""

from pathlib import Path

import torch

from hybridkit.compile import Plan, compile_pattern
from hybridkit.data import load_tokenizer, tokenizer_vocab
from hybridkit.model import Model
from hybridkit.recipe import Loaded
from hybridkit.rules import CURRENT
from hybridkit.run import Run
from hybridkit.weights import check_weights, load_weights


def build(
    pattern: str,
    *,
    width: int = 256,
    heads: int = 4,
    vocab: int = 257,
    tie: bool = False,
    logit_cap: float | None = None,
) -> Model:
    """A model with fresh weights, on torch's default device: `hybridkit.build("[swa:128, mlstm]*2", width=64)`.

    Raises PatternError for a mistake in the pattern.
    """
    return Model(compile_pattern(pattern, width=width, heads=heads, vocab=vocab, tie=tie, logit_cap=logit_cap))


def plan(loaded: Loaded, vocab: int | None = None) -> Plan:
    """What a recipe describes, compiled and checked; nothing is allocated.

    `vocab` is that of trained weights; None: what model and tokenizer come to. Raises PatternError with the place in
    the recipe, and UserError where model and tokenizer do not fit.
    """
    recipe, model = loaded.recipe, loaded.recipe.model
    return compile_pattern(
        recipe.pattern,
        width=model.width,
        heads=model.heads,
        vocab=vocab or tokenizer_vocab(recipe.data.tokenizer, model.vocab),
        ffn=model.ffn,
        tie=model.tie,
        logit_cap=model.logit_cap,
        rules=recipe.rules or CURRENT,
        source=loaded.source,
    )


def load(run: Path | str) -> Model:
    """The newest valid weights of a run, on the CPU, with `.tokenizer` and `.recipe` set.

    Nothing executable is read. Raises UserError where the folder holds no run or no valid checkpoint, or the weights
    are another model's.
    """
    folder = Run(run)
    loaded, weights = folder.recipe, folder.weights()
    embedding = weights.get("embedding.weight", torch.empty(0))
    with torch.device("meta"):
        model = Model(plan(loaded, vocab=len(embedding) if embedding.ndim == 2 else None))
    check_weights(model, weights, str(run))  # before anything of a size that only the recipe says is allocated
    model.to(weights["norm.weight"].dtype).to_empty(device="cpu")
    model.share_weights()  # moving from the meta device has parted them
    load_weights(model, weights, str(run))
    model.tokenizer, model.recipe = load_tokenizer(folder.path, loaded.recipe.rules or CURRENT), loaded.recipe
    return model.requires_grad_(False).eval()
