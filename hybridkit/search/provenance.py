"""What the trials of a study are trained on and by: trials compare only where text, tokenizer and code are the same."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from hybridkit.data.open import open_recall, text_digest
from hybridkit.recipe.schema import Data
from hybridkit.runs.plugin_copies import code_of, hashes
from hybridkit.runs.run import Run
from hybridkit.search.candidate import Candidate
from hybridkit.search.trials import Trial
from hybridkit.system.errors import UserError


def candidate_origin(candidate: Candidate) -> dict[str, str]:
    """Hashes of the text that a candidate would be trained on now, tokenizer included, and of its plug-ins, by name.

    Raises UserError for text that cannot be read.
    """
    data = candidate.loaded.recipe.data
    text = {_text(data): data.source if open_recall(data) else text_digest(data)}
    return text | _code(hashes(code_of(candidate.costs.plan.entries)))


def run_origin(candidate: Candidate, run: Run) -> dict[str, str]:
    """The same of a run of the candidate, as its newest checkpoint says."""
    data, manifest = candidate.loaded.recipe.data, run.record()
    if manifest is None:
        return {}
    return ({} if open_recall(data) else {_text(data): manifest.data}) | _code(manifest.code or {})


def difference(was: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """What two origins say differently of the same thing, with both hashes; None where nothing."""
    for name in was.keys() & now.keys():
        if was[name] != now[name]:
            return f"{name} is another one: {was[name]} there, {now[name]} now"
    return None


def refuse_other_origin(place: object, trials: Iterable[Trial], origin: Mapping[str, str]) -> None:
    """Raises UserError where an earlier trial had other text or code, so that it would not compare."""
    for trial in trials:
        if trial.state != "failed" and (what := difference(trial.origin, origin)):
            raise UserError(
                f"{place}: trial {trial.number} does not compare with what would be trained now: {what};"
                " put it back, or begin another study with --study"
            )


def _text(data: Data) -> str:
    said = [data.source, data.field, data.tokenizer, data.validation]
    return f"the text of {json.dumps(said, ensure_ascii=False)}"


def _code(code: Mapping[str, str]) -> dict[str, str]:
    return {f"the plug-in {name}": digest for name, digest in code.items()}
