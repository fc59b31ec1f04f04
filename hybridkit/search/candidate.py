"""From a choice of variables to a recipe with its costs; no weights are built."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from hybridkit.cost.flops import CostSettings
from hybridkit.cost.match import MAX_WIDTH, MEASURES, nearest_size, width_step, with_width
from hybridkit.model.loading import plan
from hybridkit.recipe.files import Loaded
from hybridkit.search.arguments import ablations
from hybridkit.search.budget import BudgetCheck, check_budget
from hybridkit.search.definition import Definition, chosen_recipe
from hybridkit.search.objectives import EVAL, METRICS, Costs, UnknownMetric
from hybridkit.search.pruner import choose_pruner
from hybridkit.search.questions import check_apart, check_suits, given_figures, read_question
from hybridkit.search.refusals import refuse_ignored
from hybridkit.search.space import Params
from hybridkit.system.errors import UserError, nearest

_VALIDATED = ("val_loss", "val_bits_per_byte")  # figures of every validation


@dataclass(frozen=True)
class Candidate:
    """A choice of all variables, its recipe, and the costs of that recipe."""

    params: Params
    loaded: Loaded
    costs: Costs

    @property
    def pattern(self) -> str:
        """The canonical pattern."""
        return self.costs.plan.pattern

    @cached_property
    def key(self) -> str:
        """A hash of the canonical pattern and all other fields of the recipe; equal for candidates that train alike."""
        fields = self.loaded.recipe.model_dump(mode="json", by_alias=True) | {"pattern": self.pattern}
        return hashlib.blake2b(json.dumps(fields, sort_keys=True).encode(), digest_size=12).hexdigest()

    def run(self, seed: int) -> Loaded:
        """The recipe of run number `seed`, from 0: `train.seed` is the recipe's plus `seed`."""
        recipe = self.loaded.recipe
        train = recipe.train.model_copy(update={"seed": recipe.train.seed + seed})
        return self.loaded._replace(recipe=recipe.model_copy(update={"train": train}))


class CandidateFactory:
    """Makes the candidates of a definition."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition

    def make(self, params: Mapping[str, object]) -> Candidate:
        """The candidate of a choice, its width set by `match`.

        Raises UserError, with the values, where the recipe or its pattern cannot be built with them.
        """
        chosen: Params = {name: params[name] for name in self.definition.space.variables}  # type: ignore[misc]
        try:
            loaded = self._of_flops(self._matched(chosen_recipe(self.definition, chosen)))
            return Candidate(chosen, loaded, Costs(loaded))
        except ValueError as error:  # UserError included
            raise UserError(f"{self._place()}: with {format_params(chosen)}: {error}") from None

    def check_budget(self, candidate: Candidate) -> BudgetCheck:
        """Compare the candidate's costs with the budget."""
        return check_budget(self.definition.budget, candidate.costs)

    def check(self) -> None:
        """Build candidates with all values, and look up all names of budget and objectives. Raises UserError."""
        candidates = [self.make(params) for params in self.definition.space.probes()]
        self._check_ablations(candidates)
        self.check_names()
        self._check_questions(candidates)
        self._check_pruner(candidates)

    def check_names(self) -> None:
        """Look up all names of budget and objectives. Raises UserError for an unknown one, and for what is ignored."""
        refuse_ignored(self.definition)
        costs = self.make(next(self.definition.space.probes())).costs
        for constraint in self.definition.budget:
            self._check_name(constraint.name, costs, "budget")
        for name in self.definition.file.objectives:
            self._check_objective(name, costs, "objectives")
        self._check_compared(costs)

    def _check_compared(self, costs: Costs) -> None:
        """Look up the figures that `compare` names: those of probes, else as objectives are."""
        compare = self.definition.file.compare
        if compare is None:
            return
        train = self.definition.base.recipe.train
        probed = {*_VALIDATED, *(name for probe in train.probes for name in probe.metrics())}
        bound = [compare.learnt.metric] if compare.learnt else []
        for name in (*bound, *compare.when_learnt, *compare.at_end):
            if name in probed or name.startswith("probe.needles."):  # groups of needle tasks have a name
                continue
            if name in compare.at_end and (name in METRICS or name.startswith(EVAL)):
                self._check_objective(name, costs, "compare")
                continue
            close = nearest(name, probed)
            hint = f"did you mean {close}?" if close else f"known here: {', '.join(sorted(probed))}"
            raise UserError(f"{self.definition.where('compare')}: compare: no probe measures {name}; {hint}")

    def _check_ablations(self, candidates: Sequence[Candidate]) -> None:
        """Raise UserError for an ablation of a block that no candidate has; a candidate without it is not ablated."""
        for name in (name for text in self.definition.file.trial.questions for name in ablations(text)):
            if not any(candidate.costs.plan.has(name) for candidate in candidates):
                place = self.definition.where("trial", "evaluate")
                raise UserError(f"{place}: trial.evaluate: --ablate {name}: no candidate has such a block or layer")

    def _check_questions(self, candidates: Sequence[Candidate]) -> None:
        """Raise UserError for an evaluation that suits no candidate."""
        trial, place = self.definition.file.trial, f"{self.definition.where('trial', 'evaluate')}: trial.evaluate: "
        kinds = {(one.loaded.recipe.data.model_dump_json(), one.costs.plan.has_windows): one for one in candidates}
        for text in trial.questions:
            errors = []
            for candidate in kinds.values():
                try:
                    check_suits(read_question(text), candidate.loaded, candidate.costs.plan.has_windows)
                    break
                except UserError as error:
                    errors.append(error)
            else:
                raise UserError(f"{place}{errors[0]}")
        try:
            check_apart(trial.questions, trial.windows)
        except UserError as error:
            raise UserError(f"{place}{error}") from None

    def _check_pruner(self, candidates: Sequence[Candidate]) -> None:
        """Raise UserError for a pruner that compares no candidate."""
        said = self.definition.file.pruner
        steps = max(candidate.loaded.recipe.train.steps for candidate in candidates)
        if said is not None and not choose_pruner(said).rungs(0, steps):
            place = self.definition.where("pruner")
            raise UserError(
                f"{place}: pruner: compares no trial, of {steps} steps at most; should begin before its end"
            )

    def _check_objective(self, name: str, costs: Costs, section: str) -> None:
        if name in METRICS:
            return
        if not name.startswith(EVAL):
            return self._check_name(name, costs, section, METRICS)
        place, questions = f"{self.definition.where(section)}: {section}", self.definition.file.trial.questions
        if not questions:
            raise UserError(f"{place}: {name} needs an evaluation: give the arguments of `eval` as trial.evaluate")
        known = self._figures
        path = tuple(name.split(".")[1:])
        if any(all(one == other for one, other in zip(path, figure, strict=False)) for figure in known):
            return
        if not any(read_question(text).harness for text in questions):  # whose groups report their members
            near, arguments = [figure for figure in known if figure[0] == path[0]], "` and `eval ".join(questions)
            said = [".".join(figure) for figure in near] or dict.fromkeys(figure[0] for figure in known)
            raise UserError(f"{place}: {name}: `eval {arguments}` reports {', '.join(said)}, and no {'.'.join(path)}")

    @cached_property
    def _figures(self) -> list[tuple[str, ...]]:
        """The names of all figures of the evaluations, as far as they are known before. Raises UserError."""
        trial = self.definition.file.trial
        try:
            return list(dict.fromkeys(path for text in trial.questions for path in given_figures(text, trial.windows)))
        except UserError as error:
            raise UserError(f"{self.definition.where('trial', 'evaluate')}: trial.evaluate: {error}") from None

    def _check_name(self, name: str, costs: Costs, section: str, others: Sequence[str] = ()) -> None:
        try:
            costs(name)
        except UnknownMetric as error:
            known = [*(error.known or costs.names), *others]
            close = nearest(name, [*costs.names, *others])
            hint = f"did you mean {close}?" if close else f"known here: {', '.join(known)}"
            raise UserError(f"{self.definition.where(section)}: {section} has no metric {name}; {hint}") from None

    def _matched(self, loaded: Loaded) -> Loaded:
        measure = self.definition.measure
        if measure is None:
            return loaded
        case, step = CostSettings(loaded.recipe.data.sequence), width_step(loaded)
        size = nearest_size(
            lambda n: MEASURES[measure](plan(with_width(loaded, n * step)), case), self._wanted, MAX_WIDTH // step
        )
        return with_width(loaded, size * step)

    def _of_flops(self, loaded: Loaded) -> Loaded:
        """The recipe with as many steps as come nearest to `trial.flops`; at least one."""
        flops = self.definition.file.trial.flops
        if flops is None:
            return loaded
        train = loaded.recipe.train
        steps = max(1, round(flops / (Costs(loaded)("flops_per_token.training") * train.batch_tokens)))
        changed = loaded.recipe.model_copy(update={"train": train.model_copy(update={"steps": steps})})
        return loaded._replace(recipe=changed)

    @cached_property
    def _wanted(self) -> Fraction:
        """The cost that `match` gives every candidate."""
        target, measure = self.definition.target, self.definition.measure
        assert target is not None and measure is not None
        return MEASURES[measure](plan(target), CostSettings(target.recipe.data.sequence))

    def _place(self) -> str:
        return self.definition.where("patterns" if self.definition.file.patterns else "space")


def format_params(params: Params) -> str:
    """A choice of variables, for messages."""
    return ", ".join(f"{name} = {value}" for name, value in params.items())


def describe_candidate(params: Params, check: BudgetCheck) -> str:
    """A choice of variables and its costs, for messages."""
    return f"{format_params(params)} with {check}"
