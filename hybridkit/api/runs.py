"""Runs from Python: train one, look at it, evaluate it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridkit.recipe.files import Loaded, read_mapping, run_name, set_values
from hybridkit.runs.run import Run, Which, load_recipe
from hybridkit.system.errors import MissingExtra, UserError

if TYPE_CHECKING:
    import pandas

    from hybridkit.training.callback import Callback

RecipeLike = str | Path | Mapping[str, Any]  # a file, the name of a shipped recipe, or its content


class TrainedRun:
    """A run folder, as `train` gives it and `evaluate` takes it. It is read anew whenever it is asked."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        Run(path).check_exists()

    def __repr__(self) -> str:
        return f"TrainedRun({str(self.path)!r})"

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl: steps with `loss`, validations with `val_loss`."""
        return [dict(line) for line in Run(self.path).metrics().lines]

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe that was trained, every default written out."""
        return Run(self.path).recipe.recipe.model_dump(mode="json", by_alias=True)

    @property
    def checkpoints(self) -> list[int]:
        """The steps of the checkpoints there are, in order."""
        return sorted(checkpoint.step for checkpoint in Run(self.path).checkpoints())

    @property
    def best(self) -> int:
        """The step of the checkpoint that is best by `train.best`, or by val_loss. Raises UserError if unknown."""
        return Run(self.path).chosen("best")[0].step


def train(
    recipe: RecipeLike,
    run: str | Path | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    quiet: bool = False,
) -> TrainedRun:
    """Train a recipe in this process: `train("quickstart", overrides={"train.steps": 100})`.

    `recipe`: a file, a shipped recipe's name, or its content as a mapping, for which `run`, the folder, must be given;
    elsewhere `run` is runs/ and the recipe's name. `overrides` are dotted keys. `callbacks` are told what happens;
    progress is printed unless `quiet`. Raises UserError for what is wrong in the recipe, for a folder that holds a run
    (without `resume`), and for a recipe of several ranks, which `hybridkit train` starts; Failure for a loss that is
    not finite or spikes, for too little memory, and for a callback that fails.
    """
    from hybridkit.evaluation.probes import probes_of
    from hybridkit.report.progress import reporter
    from hybridkit.report.run_summary import RunSummary
    from hybridkit.training.launch.launch import check_launch
    from hybridkit.training.refusals import refuse_folder
    from hybridkit.training.reporter import Silent
    from hybridkit.training.trainer import run_training as start

    folder = run_folder(recipe, run)
    loaded = load_given_recipe(recipe, overrides or {}, folder if resume and folder.is_dir() else None)
    check_launch(loaded.recipe, 1, loaded.registry)
    refuse_folder(Run(folder))
    told = Silent() if quiet else reporter()
    summary = [] if quiet else [RunSummary(loaded, 1, told.message)]
    start(loaded, folder, resume=resume, reporter=told, callbacks=[*summary, *probes_of(loaded), *callbacks])
    return TrainedRun(folder)


def load_given_recipe(recipe: RecipeLike, overrides: Mapping[str, Any], run: Path | None = None) -> Loaded:
    """The recipe with its overrides. Raises UserError."""
    if isinstance(recipe, Mapping):
        return read_mapping(recipe, overrides)
    return load_recipe(recipe, set_values(overrides), run)


def run_folder(recipe: RecipeLike, run: str | Path | None) -> Path:
    """The folder of a run: `run`, or else runs/ and the recipe's name. Raises UserError for a recipe without a name."""
    if run is not None:
        return Path(run)
    if isinstance(recipe, Mapping):
        raise UserError('train: a recipe given as a mapping has no name; name the run\'s folder, as in run="runs/a"')
    return Path("runs") / run_name(recipe)


def evaluate(
    run: str | Path | TrainedRun | Sequence[str | Path | TrainedRun],
    *,
    perplexity: bool = True,
    text: str | Path | Sequence[str | Path] = (),
    context: int | None = None,
    needles: str | Sequence[str] = (),
    lengths: int | Sequence[int] = (),
    recall: int | Sequence[int] = (),
    windows: int | Sequence[int | None] | None = (None,),
    tasks: str | Sequence[str] = (),
    ablate: str | Sequence[str] = (),
    reset_state: int | Sequence[int] = (),
    evict: int | Sequence[int] = (),
    samples: int = 500,
    checkpoint: Which = None,
    **options: Any,
) -> dict[str, Any]:
    """What `hybridkit eval --json` prints, as a dict: `perplexity`, `by_position`, `cells` (needles, recall), `tasks`.

    Where a list is meant, one of its elements does, too.
    `text`: files, folders or globs that are read in place of the held-out text.
    `needles` are RULER's tasks or groups, `lengths` those of their prompts (none: 4096), `recall` gaps in tokens,
    `tasks` those of the harness, `windows` those at test time (None: each block's largest). `ablate`, `reset_state`,
    `evict`: ask again without a kind of block, and with recurrent states or attention's keys cut so many tokens before
    the answer. `checkpoint`: a step, "best" or "newest". `options` are further fields of
    `hybridkit.evaluation.request.EvalRequest`: seed, scoring, batch, chunk, device, precision, haystack, include,
    limit, and average: the running mean of the weights (`train.ema`). Answers to needles are kept in the run's eval/.
    Raises UserError for questions that do not suit a run.
    """
    from hybridkit.evaluation.request import EvalRequest
    from hybridkit.evaluation.runner import Evaluator
    from hybridkit.evaluation.target import open_changed_targets
    from hybridkit.evaluation.task_names import task_names

    if unknown := options.keys() - EvalRequest.__dataclass_fields__.keys():
        raise UserError(f"evaluate: unknown option {sorted(unknown)[0]}")
    request = EvalRequest(
        perplexity=perplexity, texts=tuple(map(str, _several(text))), context=context,
        tasks=task_names(_several(needles)), lengths=_several(lengths) or ((4096,) if needles else ()),
        windows=_several(windows), gaps=_several(recall), harness=_several(tasks), samples=samples, **options,
    )  # fmt: skip
    runs = [run] if isinstance(run, str | Path | TrainedRun) else list(run)
    paths = [one.path if isinstance(one, TrainedRun) else Path(one) for one in runs]
    changes: Any = _several(ablate), {"state": _several(reset_state), "cache": _several(evict)}
    targets = [target for path in paths for target in open_changed_targets(path, request, checkpoint, *changes)]
    return Evaluator(targets, request).run_all().to_json()


def _several(said: Any) -> tuple[Any, ...]:
    """One value, or those of a list."""
    return tuple(said) if isinstance(said, Iterable) and not isinstance(said, str | Path) else (said,)


def frame(run: str | Path | TrainedRun) -> pandas.DataFrame:
    """The metrics of a run as a pandas frame, a row a line, indexed by step. Raises UserError without pandas."""
    try:
        import pandas
    except ImportError:
        raise MissingExtra("pandas", "notebook") from None
    of = run if isinstance(run, TrainedRun) else TrainedRun(run)
    return pandas.DataFrame(of.metrics).set_index("step")


def costs(recipe: RecipeLike, *, context: int | None = None, **sizes: Any) -> dict[str, Any]:
    """What a pattern or a recipe costs, as in `hybridkit flops --json`: parameters, FLOPs a token, state bytes, layers.

    FLOPs count a multiply-add as 2; state bytes are those of one sequence after `context` tokens (docs/flops.md).

    `costs("[swa:128, mlstm]*12", width=2048, context=16384)`: a text that is no recipe's name is a pattern. `sizes` are
    fields of the recipe's `model`. Raises UserError for what is wrong in them, and for a name of a recipe and a block.
    """
    from hybridkit.cost.summary import cost_entry, cost_requests

    if context is not None and (isinstance(context, bool) or not isinstance(context, int) or context < 1):
        raise UserError(f"costs: context should be at least 1 token, not {context!r}")
    if not isinstance(recipe, str | Path | Mapping):
        raise UserError(f"costs: {recipe!r} is no pattern, recipe's name, file or mapping")
    overrides = {f"model.{key}": value for key, value in sizes.items()}
    pattern = isinstance(recipe, str) and _is_pattern(recipe)
    loaded = load_given_recipe({"pattern": recipe} if pattern else recipe, overrides)
    name = "recipe" if isinstance(recipe, Mapping) or pattern else run_name(recipe)
    (request,) = cost_requests(name, loaded, (context,) if context else ())
    return cost_entry(request)


def _is_pattern(text: str) -> bool:
    """Whether a text is no recipe's name. Raises UserError where it may be either."""
    from hybridkit.recipe.files import find_recipe, is_recipe, shipped
    from hybridkit.registry.kinds import BLOCK
    from hybridkit.registry.registry import REGISTRY

    if not is_recipe(text):
        return True
    if text in REGISTRY.names(BLOCK):
        path = find_recipe(text)
        names = [name for name, file in shipped().items() if file == path and name != text]
        other = names[0] if names else path.resolve()
        raise UserError(f'costs: {text} is a block and a recipe: say "[{text}]", or "{other}"')
    return False
