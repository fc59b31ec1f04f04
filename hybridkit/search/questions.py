"""What `trial.evaluate` asks: its requests, the figures that they give, and whether they suit a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

from hybridkit.data.recipe_data import context_length, open_feed
from hybridkit.data.tokenizer import ByteTokenizer, Tokenizer
from hybridkit.evaluation.haystack import open_essays
from hybridkit.evaluation.recall import check_recall
from hybridkit.evaluation.request import EvalRequest
from hybridkit.evaluation.samples import Samples
from hybridkit.evaluation.words import read_request
from hybridkit.recipe.files import Loaded
from hybridkit.search.arguments import ablations, option_values
from hybridkit.search.objectives import POSITION
from hybridkit.system.errors import UserError

FigurePath = tuple[str, ...]  # of a figure, as in an objective; what lies under it is not known before
GivenFigures = dict[FigurePath, tuple[Any, ...]]  # and what each depends on beside the run and the window

_NUMBERS = ("samples", "seed", "limit", "batch", "chunk")


def read_question(text: str) -> EvalRequest:
    """The request of the arguments of `eval`, its ablations aside. Raises UserError."""
    said: dict[str, Any] = {name: value for name, value in option_values(text) if name != "ablate"}
    for name in said.keys() & set(_NUMBERS):
        try:
            said[name] = int(said[name])
        except ValueError:
            raise UserError(f"--{name} {said[name]}: should be a whole number") from None
    perplexity = [name for name in said if name.endswith("perplexity")]
    chosen: dict[str, Any] = {"perplexity": perplexity[-1] == "perplexity"} if perplexity else {}
    chosen |= {"scoring": said.pop("score")} if "score" in said else {}
    return read_request(**{name: value for name, value in said.items() if name not in perplexity}, **chosen)


def given_figures(text: str, windows: Sequence[int]) -> GivenFigures:
    """The figures that the arguments give at `trial.windows`; of the harness, one for each task."""
    request = read_question(text)
    plain = dict(_figures(request, [str(w) for w in request.windows if w] or [str(w) for w in windows] or ["own"]))
    ablated = {
        (f"{path[0]} without {block}", *path[1:]): said for path, said in plain.items() for block in ablations(text)
    }
    drawn = request.limit, request.seed, request.lengths
    return plain | ablated | {(task,): drawn for task in request.harness}


def _figures(request: EvalRequest, windows: Sequence[str]) -> Iterator[tuple[FigurePath, tuple[Any, ...]]]:
    drawn, forced = (request.samples, request.seed), "" if request.scoring == "ruler" else f" ({request.scoring})"
    if request.perplexity:
        yield (POSITION,), (request.context,)
        yield from ((("perplexity", window), ()) for window in windows)
    if request.gaps:
        yield ("recall_near",), ()
    for window in windows:
        yield from ((("recall_far", str(gap), window), drawn) for gap in request.gaps)
        for task in request.tasks:
            yield from (((task + forced, str(length), window), drawn) for length in request.lengths)


def check_apart(questions: Sequence[str], windows: Sequence[int]) -> None:
    """Raise UserError where two evaluations give a figure of the same name that is not the same."""
    for one, other in combinations([given_figures(text, windows) for text in questions], 2):
        if twice := next((path for path, said in one.items() if other.get(path, said) != said), None):
            raise UserError(f"two evaluations give {'.'.join(twice)}, and not alike; let one of them do it")


def check_suits(request: EvalRequest, loaded: Loaded, has_windows: bool) -> None:
    """Raise UserError where runs of a recipe cannot be asked: source, windows, context, lengths. May read its text."""
    recipe, registry = loaded.recipe, loaded.registry
    if any(request.windows) and not has_windows:
        raise UserError("--windows: the stack has no block with a window; leave --windows out")
    check_recall(request.gaps, recipe.data, registry, "the recipe")
    if request.context:
        context_length(recipe.data, request.context, recipe.rules, registry)
    if request.tasks:
        _check_lengths(request, _tokenizer(loaded))


def _check_lengths(request: EvalRequest, tokenizer: Tokenizer) -> None:
    essays = open_essays(request.haystack)
    for task in request.tasks:
        for length in request.lengths:
            list(Samples(task, length, request.seed, tokenizer, tokenizer.digest, essays).prepare(1))


def _tokenizer(loaded: Loaded) -> Tokenizer:
    recipe = loaded.recipe
    if recipe.data.tokenizer == "bytes":
        return ByteTokenizer()
    return open_feed(recipe.data, recipe.train, rules=recipe.rules, registry=loaded.registry).tokenizer
