"""Costs as plain data: the entries of `hybridkit flops --json` (docs/flops.md says what each figure means)."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from typing import Any, NamedTuple

from hybridkit.cost.flops import Case, Cost, LayerCost, cost, state_bytes
from hybridkit.cost.memory import STAGES, Training, activations, persistent_memory
from hybridkit.model.loading import plan
from hybridkit.model.plan import Plan
from hybridkit.recipe.files import Loaded
from hybridkit.runs.plugin_copies import code_of, hashes
from hybridkit.system.errors import UserError
from hybridkit.system.machine import DTYPES, Precision, choose_device, choose_precision, weight_type

SCHEMA = 1
CONTEXTS = tuple(1024 << n for n in range(11))  # 1k ... 1M tokens


class Question(NamedTuple):
    """A recipe, by the name it was asked for, and the circumstances under which it is costed."""

    name: str
    loaded: Loaded
    plan: Plan
    training: Training
    case: Case


def questions(
    name: str,
    loaded: Loaded,
    contexts: Sequence[int] = (),
    *,
    precision: Precision | None = None,
    ranks: int = 1,
    **settings: Any,
) -> list[Question]:
    """One question for each context, data.sequence by default; `settings` are further fields of `Case`.

    `precision` is that of weights and states, by default the type that a run of the recipe decodes in.
    Raises UserError for a pattern that does not fit its sizes, and for a window where the recipe has none.
    """
    described, train = plan(loaded), loaded.recipe.train
    if settings.get("window") and not any(entry.window for entry in described.entries):
        raise UserError(f"--window: {name} has no block with a window; leave it out")
    own = choose_precision(train.precision, choose_device("auto").type)
    kind = DTYPES[precision] if precision else weight_type(own)
    micro_batch = 1 if train.micro_batch == "auto" else train.micro_batch
    training = Training(own, micro_batch, ranks, loaded.recipe.data.documents == "reset")
    return [
        Question(name, loaded, described, training, Case(context, dtype=kind, **settings))
        for context in contexts or (loaded.recipe.data.sequence,)
    ]


def describe(question: Question) -> dict[str, Any]:
    """An entry of the schema. Whole numbers are exact; means over positions and windows are the nearest float."""
    case = question.case
    found = cost(question.plan, case)
    return {
        "recipe": question.name,
        "pattern": question.plan.pattern,
        "code": hashes(code_of(question.plan.entries)),
        "count": case.count,
        "context": case.context,
        "window": case.window,
        "batch": case.batch,
        "dtype": str(case.dtype).removeprefix("torch."),
        "params": {"total": found.parameters.total, **found.parameters._asdict()},
        "flops_per_token": {
            name: number(getattr(found, name)) for name in ("forward", "training", "recompute", "decode")
        },
        "prefill_flops": found.prefill,
        "decode_bytes_per_token": number(found.decode_bytes),
        "state_bytes": {str(n): size for n, size in state_curve(question.plan, case).items()},
        "memory": _memory(question),
        "layers": [_layer(found, index, layer) for index, layer in enumerate(found.layers)],
    }


def with_activations(entry: dict[str, Any], question: Question) -> dict[str, Any]:
    """The entry of a question, with the bytes of activations in its `memory`."""
    found = activations(question.plan, question.training, question.case)
    return {**entry, "memory": {**entry["memory"], "activations": asdict(found)}}


def state_curve(plan: Plan, case: Case) -> dict[int, int]:
    """State bytes after 1k ... 1M tokens, and after `case.context`."""
    return {n: state_bytes(plan, replace(case, context=n)) for n in sorted({*CONTEXTS, case.context})}


def number(value: Fraction) -> int | float:
    """A fraction as JSON has it."""
    return int(value) if value.denominator == 1 else float(value)


def _memory(question: Question) -> dict[str, Any]:
    training = question.training
    states = persistent_memory(question.plan, training)
    return {
        "precision": training.precision,
        "micro_batch": training.micro_batch,
        "ranks": training.ranks,
        **asdict(states),
        "zero": {str(stage): states.on_rank(stage, training.ranks) for stage in STAGES},
    }


def _layer(found: Cost, index: int, layer: LayerCost) -> dict[str, Any]:
    block, window = found.plan.entries[index]
    return {
        "index": index,
        "block": block.name(),
        "entry": str(block),
        "window": None if window is None else str(window),
        "params": layer.parameters,
        "forward_flops_per_token": number(layer.forward / found.case.context),
        "state_bytes": layer.state,
    }
