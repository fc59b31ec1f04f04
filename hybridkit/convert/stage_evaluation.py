"""What is measured of a teacher and of its student after every stage: text, needles, recall, states, decoding.

All are asked about the held-out text of the student's recipe, in rows of its sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from hybridkit.convert.definition import Conversion
from hybridkit.convert.recorded import read_recorded
from hybridkit.convert.stages import MAPPED
from hybridkit.cost.flops import CostSettings, total_state_bytes
from hybridkit.data.cache import digest_of
from hybridkit.evaluation.request import CellScore, DepthScore, EvalProgress, EvalRequest, EvalResult, unwatched
from hybridkit.evaluation.runner import Evaluator
from hybridkit.evaluation.target import EvalTarget, open_eval_target
from hybridkit.evaluation.task_names import task_names
from hybridkit.inference.decode import decode_tokens, prefill
from hybridkit.inference.sampling import Sampling
from hybridkit.model.model import Model
from hybridkit.recipe.convert import Evaluation
from hybridkit.runs.run import Run
from hybridkit.system.errors import UserError
from hybridkit.system.timing import seconds

REPEAT = 3  # times that decoding is timed, of which the median counts
CONTEXTS = (1, 16, 256)  # training sequences, after which states are sized


class Measuring:
    """What `run_conversion` asks of every model. `watching` opens what is told how far one of them is."""

    def __init__(self, watching: Callable[[], AbstractContextManager[EvalProgress]] | None = None) -> None:
        self._watching = watching or (lambda: nullcontext(unwatched))

    def check(self, conversion: Conversion) -> None:
        """Raises UserError for questions that do not suit teacher and student."""
        asked, plan = _asked(conversion), conversion.stages[-1].plan
        if asked.windows and not plan.has_windows:
            raise UserError(f"convert.evaluate.windows: no block of {plan.pattern} has a window; leave it out")
        try:
            self._evaluator(conversion, conversion.teacher.run, "teacher")
        except UserError as error:
            raise UserError(f"convert.evaluate: {str(error).removeprefix('--')}") from error

    def asked(self, conversion: Conversion) -> str:
        """A hash of the questions and of the text that they are about."""
        (target,) = self._evaluator(conversion, conversion.teacher.run, "teacher").targets
        questions = _asked(conversion).model_dump(mode="json")
        return digest_of([questions, conversion.loaded.recipe.data.sequence, target.text.digest])

    def __call__(self, conversion: Conversion, run: Run, name: str) -> dict[str, Any]:
        """The figures of one model, as plain data."""
        contexts = [factor * conversion.loaded.recipe.data.sequence for factor in CONTEXTS]
        with self._watching() as watch:
            evaluator = self._evaluator(conversion, run, name, watch)
            (target,), found = evaluator.targets, evaluator.run_all().to_json()
            speed = _speed(conversion, target, name)
        sizes = {str(n): total_state_bytes(target.plan, CostSettings(n)) for n in contexts}
        return {"name": name, "run": target.name, "state_bytes": sizes, **speed, **found}

    def _evaluator(self, conversion: Conversion, run: Run, name: str, watch: EvalProgress = unwatched) -> Evaluator:
        recipe, asked = conversion.loaded.recipe, _asked(conversion)
        step = conversion.teacher.step if name == "teacher" else None
        target = open_eval_target(run.path, checkpoint=step)
        target = replace(target, recipe=target.recipe.model_copy(update={"data": recipe.data}))
        windows: Sequence[int | None] = asked.windows if asked.windows and target.plan.has_windows else [None]
        request = EvalRequest(
            context=asked.context, tasks=task_names(asked.needles or ()), lengths=tuple(asked.lengths or ()),
            windows=tuple(windows), samples=asked.samples, scoring=asked.score, gaps=tuple(asked.recall or ()),
            device=recipe.train.device,
        )  # fmt: skip
        return Evaluator([target], request, watch)


def _asked(conversion: Conversion) -> Evaluation:
    assert conversion.loaded.recipe.convert
    return conversion.loaded.recipe.convert.evaluate


def _speed(conversion: Conversion, target: EvalTarget, name: str) -> dict[str, Any]:
    """Tokens that are decoded in a second after one training sequence, of the student and of the teacher: in turns, so
    that a busy machine slows both. Only after the last stage: the stages before it decode alike."""
    recipe = conversion.loaded.recipe
    if name in ("teacher", MAPPED) or target.run.path != conversion.stages[-1].run.path:
        return {}
    teacher = open_eval_target(conversion.teacher.run.path, checkpoint=conversion.teacher.step)
    tokens, length = _asked(conversion).decode, recipe.data.sequence
    with target.model(recipe.train.device) as student, teacher.model(recipe.train.device) as other:
        times: dict[str, list[float]] = {"decode_tokens_per_second": [], "teacher_decode_tokens_per_second": []}
        for turn in range(REPEAT + 1):  # the first warms up
            for key, model in zip(times, (student, other), strict=True):
                rate = tokens / _decoding(model, length, tokens)
                times[key] += [rate] if turn else []
    return {key: median(rates) for key, rates in times.items()}


def _decoding(model: Model, length: int, tokens: int) -> float:
    """Seconds in which tokens are decoded behind a prompt of random ones."""
    ids = torch.randint(model.plan.dims.vocab, (1, length), generator=torch.Generator().manual_seed(0))
    context = prefill(model, ids[0].tolist())
    run = lambda: list(decode_tokens(model, context, Sampling(temperature=0), tokens))  # noqa: E731
    return seconds(run, model.head.weight.device)


def merged_evaluations(found: Sequence[Mapping[str, Any]]) -> EvalResult:
    """The evaluations of several models as one, each under its name in the conversion."""
    result = EvalResult(found[0]["settings"], {})
    for one in found:
        name, run = one["name"], one["run"]
        result.trained[name] = one["trained"].get(run, "")
        result.origins[name] = one["origins"][run]
        result.perplexity[name] = one["perplexity"].get(run, [])
        result.by_position += [{**row, "run": name} for row in one["by_position"]]
        result.cells += [CellScore(**{**cell, "run": name}) for cell in one["cells"]]
        result.depths += [DepthScore(**{**cell, "run": name}) for cell in one["depths"]]
        result.notes += [note for note in one["notes"] if note not in result.notes]
    return result


def stage_evaluations(folder: Path) -> list[dict[str, Any]]:
    """What was measured in a conversion so far: the teacher, then the student from stage to stage."""
    files = sorted((folder / "evaluations").glob("*.json"), key=lambda file: (file.stem != "teacher", _number(file)))
    found = [read_recorded(file, dict[str, Any]) for file in files]
    return [one for one in found if one]


def _number(file: Path) -> int:
    head = file.stem.partition("-")[0]
    return int(head) if head.isdecimal() else -1
