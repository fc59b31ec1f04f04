"""What training refuses in a recipe before any text is read: of a run that is about to begin, and of a dry run."""

from collections.abc import Sequence
from typing import NamedTuple

from hybridkit.cost.flops import window_shares
from hybridkit.data.recipe_data import check_sources
from hybridkit.model.loading import plan as compile_recipe
from hybridkit.model.plan import Plan
from hybridkit.recipe.files import Loaded
from hybridkit.recipe.rules_version import CURRENT_RULES
from hybridkit.recipe.schema import Recipe
from hybridkit.runs.run import Run
from hybridkit.system.machine import choose_device
from hybridkit.training.callback import Callback, Callbacks
from hybridkit.training.compile import check_compiler
from hybridkit.training.first_weights import check_origin
from hybridkit.training.freeze import check_freeze
from hybridkit.training.logger import loggers_of
from hybridkit.training.refusals import refuse_old_rules, refuse_unknown_metrics


class Checked(NamedTuple):
    """A recipe that training would take."""

    recipe: Recipe  # with the vocabulary of its model, and the rules that it is trained by
    plan: Plan
    loggers: Sequence[Callback]


def check_training(loaded: Loaded, callbacks: Sequence[Callback] = (), run: Run | None = None) -> Checked:
    """Raises UserError for a recipe that cannot be trained here; reads neither text nor weights.

    `callbacks` are asked, too. `run`: the one to train, new or begun, if there is a folder for it yet.
    """
    refuse_old_rules(loaded.recipe, run)
    begun = run if run and run.begun else None
    plan = compile_recipe(loaded, of=begun)
    recipe = loaded.recipe.model_copy(
        update={"model": loaded.recipe.model.model_copy(update={"vocab": plan.dims.vocab}), "rules": CURRENT_RULES}
    )
    check_freeze(plan, recipe.train.freeze, recipe.train.steps)
    check_compiler(recipe.train, choose_device(recipe.train.device))
    for policy in set(filter(None, plan.policies)):
        window_shares(policy, recipe.data.sequence)
    asked = Callbacks(callbacks)
    asked.tell("check", plan)
    loggers = [logger.open(recipe) for logger in loggers_of(recipe.train, loaded.registry)]
    refuse_unknown_metrics(recipe, [name for names in asked.tell("metrics") for name in names])
    if not begun:  # a finished run needs no source
        check_sources(recipe.data, recipe.train, loaded.registry)
    if not any(begun.checkpoints() if begun else ()):  # later it is not read again
        check_origin(recipe, plan)
    return Checked(recipe, plan, loggers)
