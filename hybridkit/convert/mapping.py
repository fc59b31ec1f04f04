"""A trained transformer's weights become those that a hybrid begins with.

Embedding, final norm, head, the entries' norms, FFNs and kept layers are copied as they are. Where another mixer stands
in an attention's place, its own rule says what it takes (`Block.from_attention`); all else stays as it is built.

Side by side, each branch takes the attention's weights, and its output projection is divided by the branches' summed
`out_scale`, so that branches that repeat the attention add up to it. With `branches: mean_norm` a norm of each branch's
own follows, and nothing is divided.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from hybridkit.block import Block, Spec, Start, write_value
from hybridkit.convert.fit import check_fit, same_entry, starts
from hybridkit.model.model import Model
from hybridkit.model.plan import Plan, entry_branches
from hybridkit.model.residual import own_norms

READ = ("q.weight", "k.weight", "v.weight", "gate.weight")  # of an attention: what its input is multiplied with
WRITTEN = ("out.weight", "out.bias")


class MappedLayer(NamedTuple):
    """What a branch of the student began with. Weights are named as in the entry; `in_proj.weight[64:128]`: rows."""

    entry: int
    branch: str  # its name in plans and metrics: "3", or "3.0" where there are several
    teacher: str  # kinds of blocks
    student: str
    how: Literal["kept", "mapped", "new"]  # `kept`: the same function; `new`: a mixer with nothing of the teacher's
    copied: Sequence[str] = ()
    repeated: Sequence[str] = ()  # key-value heads repeated
    part: Sequence[str] = ()  # some rows of the teacher's weight
    set: Sequence[str] = ()  # a value of the mixer's own rule
    new: Sequence[str] = ()  # as built
    left: Sequence[str] = ()  # weights of the teacher that have no place, with their names there
    notes: Sequence[str] = ()  # options and factors that differ from the teacher's


@torch.no_grad()
def map_weights(teacher: Model, student: Model) -> list[MappedLayer]:
    """Copy the teacher's weights into the student, in place: one element a branch, FFNs included.

    Values are cast to the student's types. Raises UserError as `check_fit` does, before any weight is changed.
    """
    check_fit(teacher.plan, student.plan)
    student.embedding.load_state_dict(teacher.embedding.state_dict())
    student.norm.load_state_dict(teacher.norm.state_dict())
    student.head.load_state_dict(teacher.head.state_dict())
    made: list[MappedLayer] = []
    for index in range(len(student.layers)):
        if same_entry(teacher.plan, student.plan, index):
            made += _keep(teacher, student, index)
        else:
            made += _map(teacher, student, index)
    return made


def _keep(teacher: Model, student: Model, index: int) -> Iterator[MappedLayer]:
    """An entry that is the same in both."""
    weights = teacher.layers[index].state_dict()
    student.layers[index].load_state_dict(weights)
    branches = entry_branches(index, student.plan.entries[index])
    for place, branch in enumerate(branches):
        other = [name for name in weights if len(branches) > 1 and name.partition(".")[0] != str(place)]
        copied = [name for name in weights if name not in other]
        kind = branch.block.name()
        yield MappedLayer(index, branch.name, kind, kind, "kept", copied)


def _map(teacher: Model, student: Model, index: int) -> Iterator[MappedLayer]:
    """An entry in which other mixers take the place of an attention."""
    source, target = teacher.layers[index], student.layers[index]
    entry = student.plan.entries[index]
    for name in ("norm", "post_norm"):
        target.get_submodule(name).load_state_dict(source.get_submodule(name).state_dict())
    norms = [name for name in target.state_dict() if name in ("norm.weight", "post_norm.weight")]
    weights = source.layer.state_dict()
    for place, branch in enumerate(entry_branches(index, entry)):
        own, several = target.layers[place].state_dict(), len(entry.branches) > 1
        scales = _scales(teacher.plan, student.plan, index, place)
        given = [_times(start, scales) for start in starts(teacher.plan, student.plan, index, place, weights)]
        for start in given:
            own[start.weight][start.begin : start.begin + len(start.value)].copy_(start.value)
        prefix = f"{place}." * several
        lists = _lists(given, own, f"{prefix}{branch.block.name()}.")
        if own_norms(entry, student.plan.config):
            lists["new"].append(f"{prefix}norm.weight")
        lists["copied"] += [] if place else norms
        old = teacher.plan.entries[index].block
        yield MappedLayer(
            index,
            branch.name,
            old.name(),
            branch.block.name(),
            "mapped" if any(start.source for start in given) else "new",
            **lists,
            left=sorted(weights.keys() - {start.source for start in given}),
            notes=[*sorted(_differences(old, branch.block, teacher.plan, student.plan)), *_said(scales)],
        )


def _scales(teacher: Plan, student: Plan, index: int, place: int) -> dict[str, float]:
    """Factors on an attention's weights for which a branch that repeats it adds its share to the same output."""
    old, entry = teacher.entries[index].block, student.entries[index]
    summed = old.out_scale if own_norms(entry, student.config) else sum(block.out_scale for block in entry.branches)
    read = old.in_scale / entry.branches[place].in_scale
    return {name: read for name in READ} | {name: old.out_scale / summed for name in WRITTEN}


def _times(start: Start, scales: dict[str, float]) -> Start:
    scale = scales.get(start.source or "", 1.0)
    return start if scale == 1 else start._replace(value=start.value * scale)


def _said(scales: dict[str, float]) -> list[str]:
    pairs = (("input", scales[READ[0]]), ("output", scales[WRITTEN[0]]))
    return [f"{name} projections times {scale:.4g}" for name, scale in pairs if scale != 1]


def _lists(given: Sequence[Start], own: dict[str, Tensor], prefix: str) -> dict[str, list[str]]:
    """The names of a layer's weights by how they began; of a weight that is filled in part, its rows."""
    lists: dict[str, list[str]] = {how: [] for how in ("copied", "repeated", "part", "set", "new")}
    for name, weight in own.items():
        begun = sorted((start for start in given if start.weight == name), key=lambda start: start.begin)
        end = 0
        for start in begun:
            if start.begin > end:
                lists["new"].append(f"{prefix}{name}[{end}:{start.begin}]")
            end = start.begin + len(start.value)
            whole = len(start.value) == len(weight)
            lists[start.how].append(f"{prefix}{name}" + f"[{start.begin}:{end}]" * (not whole))
        if not weight.dim() or end < len(weight):
            lists["new"].append(f"{prefix}{name}" + f"[{end}:{len(weight)}]" * (end > 0))
    return lists


def _differences(old: Block, new: Block, teacher: Plan, student: Plan) -> Iterator[str]:
    """Arguments that mean the same in both kinds and have other values; sizes and factors apart, which are told."""
    theirs, own = old.resolved(teacher.dims), new.resolved(student.dims)
    before, fields = type(theirs).model_fields, type(own).model_fields
    for name in fields.keys() & before.keys() - {"norm", "in_scale", "out_scale"}:
        a, b = getattr(theirs, name), getattr(own, name)
        if a != b and (name == "window" or fields[name].annotation == before[name].annotation):
            yield f"{name} {_word(b)} (teacher: {_word(a)})"


def _word(value: Any) -> str:
    if value is None:
        return "none"
    return str(value) if isinstance(value, Spec) else write_value(value)
