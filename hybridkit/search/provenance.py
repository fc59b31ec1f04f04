"""What a trial is trained on and by: text, tokenizer, plug-ins, rules. Trials compare only where these are equal.

A study records it for each trial as its origin: a name and a hash, or a version, for each of these things.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress

from hybridkit.data.recipe_data import feed_source, is_single, text_digest
from hybridkit.recipe.rules_version import CURRENT_RULES
from hybridkit.recipe.schema import Data
from hybridkit.runs.plugin_copies import hashes
from hybridkit.runs.run import Run
from hybridkit.search.candidate import Candidate
from hybridkit.search.trials import Trial
from hybridkit.system.errors import UserError
from hybridkit.training.used_plugins import training_code

RULES = "the rules version of hybridkit"  # of initial weights, split and tokens (hybridkit.recipe.rules_version)


def candidate_origin(candidate: Candidate) -> dict[str, str]:
    """The origin of a candidate that is trained now. Raises UserError for text that cannot be read."""
    recipe, registry = candidate.loaded.recipe, candidate.loaded.registry
    data, code = recipe.data, training_code(candidate.costs.plan.entries, recipe, registry)
    made = is_single(data) and feed_source(data)
    text = {_text_name(data): str(data.source) if made else text_digest(data)}
    return text | _plugins(hashes(code)) | {RULES: str(CURRENT_RULES)}


def trained_origin(candidate: Candidate, run: Run) -> dict[str, str]:
    """The origin of a run of the candidate, by its recipe and its newest checkpoint, as far as these say it."""
    data, manifest = candidate.loaded.recipe.data, run.record()
    if manifest is None:
        return run_rules(run)
    text = {} if is_single(data) and feed_source(data) else {_text_name(data): manifest.data}
    return text | _plugins(manifest.code or {}) | run_rules(run)


def run_rules(run: Run) -> dict[str, str]:
    """The rules version of a run, by its recipe; empty where that cannot be read."""
    with suppress(UserError):
        if run.recipe_file.is_file():
            return {RULES: str(run.recipe.recipe.rules)}
    return {}


def origin_difference(before: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """The first thing that two origins both name and that differs, with both values; None where there is none."""
    for name in before.keys() & now.keys():
        if before[name] != now[name]:
            return f"{name} is another one: {before[name]} there, {now[name]} now"
    return None


def refuse_other_origin(place: object, trials: Iterable[Trial], origin: Mapping[str, str]) -> None:
    """Raises UserError where a trial that did not fail differs in its origin from one that would be trained now."""
    for trial in trials:
        if trial.state != "failed" and (difference := origin_difference(trial.origin, origin)):
            raise UserError(
                f"{place}: trial {trial.number} does not compare with what would be trained now: {difference};"
                " put it back, or begin another study with --study"
            )


def _text_name(data: Data) -> str:
    said = data.model_dump(mode="json")
    settings = [said[name] for name in ("source", "field", "tokenizer", "validation")]
    return f"the text of {json.dumps(settings, ensure_ascii=False)}"


def _plugins(hashes_by_name: Mapping[str, str]) -> dict[str, str]:
    return {f"the plug-in {name}": digest for name, digest in hashes_by_name.items()}
