"""Whether a student can begin with a teacher's weights. What does not fit is said before anything is allocated."""

from __future__ import annotations

import torch

from hybridkit.block import Block, NoMapping, Start
from hybridkit.hub.described import TRAINING
from hybridkit.model.plan import Plan, Uninitialized
from hybridkit.model.residual import own_norms, placement
from hybridkit.system.errors import UserError

_SAME = {  # of a ModelConfig, and as a recipe says them
    "vocab": "model.vocab",
    "width": "model.width",
    "tie": "model.tie",
    "row_scale": "model.embedding_scale",
    "residual_scale": "model.residual_scale",
    "logit_scale": "model.logit_scale",
    "logit_cap": "model.logit_cap",
    "norm_eps": "model.norm_eps",
}


def check_fit(teacher: Plan, student: Plan) -> None:
    """Raises UserError, naming both sides and what would be right, unless every weight has a place or a rule.

    Embedding, head, norms and FFNs must be the same, and mixers stand where mixers stood.
    """
    for name, key in _SAME.items():
        theirs, own = getattr(teacher.config, name), getattr(student.config, name)
        if theirs != own:
            raise UserError(
                f"{name}: the teacher has {_said(theirs)}, the student {_said(own)}; set {key} as the teacher has it"
            )
    check_places(teacher, student)
    for index in range(len(teacher.entries)):
        _check_norm(teacher, student, index)
        if not same_entry(teacher, student, index):
            _check_entry(teacher, student, index)


def same_entry(teacher: Plan, student: Plan, index: int) -> bool:
    """Whether an entry of both is the same function of the same weights."""
    same_norms = own_norms(teacher.entries[index], teacher.config) == own_norms(student.entries[index], student.config)
    return same_norms and _resolved(teacher, index) == _resolved(student, index)


def starts(teacher: Plan, student: Plan, index: int, branch: int, weights: dict[str, torch.Tensor]) -> list[Start]:
    """What a branch of the student's entry begins with, from the weights of the teacher's one layer there.

    Raises ValueError where it has no mapping, or sizes do not fit.
    """
    old, new = teacher.entries[index].block, student.entries[index].branches[branch]
    return list(new.from_attention(old.attention_weights(weights, teacher.dims), student.dims))


def _resolved(plan: Plan, index: int) -> list[Block]:
    blocks = [block.resolved(plan.dims) for block in plan.entries[index].branches]
    return [block.model_copy(update={"norm": None, **_trained(block)}) for block in blocks]


def _trained(block: Block) -> dict[str, object]:
    """Arguments that only say how a new layer begins, at their defaults."""
    fields = type(block).model_fields
    return {name: fields[name].get_default() for name in fields.keys() & {*TRAINING}}


def check_places(teacher: Plan, student: Plan) -> None:
    """Raises UserError unless mixers and FFNs stand at the same places."""
    mixing = [[entry.is_mixer for entry in plan.entries] for plan in (teacher, student)]
    if mixing[0] == mixing[1]:
        return
    numbers = [f"{sum(mixes)} mixers and {len(mixes) - sum(mixes)} FFNs" for mixes in mixing]
    if numbers[0] != numbers[1]:
        raise UserError(f"the teacher has {numbers[0]}, the student {numbers[1]}: give the pattern as many of both")
    index = next(index for index, (old, new) in enumerate(zip(*mixing, strict=True)) if old != new)
    said = f"the teacher's is {teacher.entries[index]}, the student's {student.entries[index]}"
    raise UserError(f"entry {index}: {said}; mixers and FFNs should stand at the same places in both")


def _check_norm(teacher: Plan, student: Plan, index: int) -> None:
    old, new = teacher.entries[index], student.entries[index]
    places = placement(old, teacher.config), placement(new, student.config)
    if places[0] != places[1]:
        raise UserError(
            f"entry {index}: the teacher normalizes it `{places[0]}` ({old}), the student `{places[1]}` ({new}); "
            f"set model.norm, or the block's own norm="
        )


def _check_entry(teacher: Plan, student: Plan, index: int) -> None:
    """Run the rules on weights without values."""
    old, new = teacher.entries[index], student.entries[index]
    said = f"entry {index}: the teacher's is {old}, the student's {new}"
    number = sum(entry.is_mixer for entry in teacher.entries[:index])  # as `keep` counts mixers
    if not old.is_mixer:
        theirs = " | ".join(str(block.resolved(teacher.dims)) for block in old.branches)
        raise UserError(f"{said}; FFNs stay as they are: give the recipe the teacher's, {theirs}")
    if len(old.branches) > 1:
        raise UserError(f"{said}; branches side by side have no mapping: keep the teacher's (convert.keep: [{number}])")
    weights = _shapes(old.block, teacher)
    for branch in range(len(new.branches)):
        try:
            starts(teacher, student, index, branch, weights)
        except NoMapping as error:
            raise UserError(
                f"{said}: {error}; keep the teacher's (convert.keep: [{number}]), or choose another mixer"
            ) from error
        except ValueError as error:
            raise UserError(f"{said}: {error}") from error


def _shapes(block: Block, plan: Plan) -> dict[str, torch.Tensor]:
    """A layer's weights on the meta device."""
    with torch.device("meta"), Uninitialized():
        return block.build(plan.dims).state_dict()


def _said(value: object) -> str:
    return "none" if value is None else str(value)
