"""Which of a teacher's mixers the student keeps: said by number, the last ones, or chosen by what each loses.

Mixers are counted from 0, as papers and transformers number layers; with an FFN behind each, mixer 3 is entry 6.

To choose, one mixer of the teacher at a time gives its place to the student's, which stage 1 has aligned with it. With
r and l the recall and the loss in nats of the teacher, and r_i and l_i those with mixer i replaced,

    score_i = max(0, r - r_i) / (max(0, l_i - l) + eps)

(HALO, arXiv 2601.22156, with the loss of held-out text for its commonsense tasks): the mixers are kept whose loss costs
recall rather than anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import nn

from hybridkit.block import Entry
from hybridkit.convert.fit import check_fit, check_places, same_entry
from hybridkit.language.printer import canonical
from hybridkit.model.model import Model
from hybridkit.model.plan import Plan, Uninitialized
from hybridkit.system.errors import UserError

EPS = 0.01  # nats: what a loss of a language model is measured to


class RecallAndLoss(NamedTuple):
    """What a model can do: the share of things that it recalls, and nats a token of held-out text."""

    recall: float
    loss: float


RecallMeasure = Callable[[Model], RecallAndLoss]


class KeepCandidate(NamedTuple):
    """A mixer that might be kept, and the teacher without it."""

    mixer: int
    entry: int
    without: RecallAndLoss
    score: float
    kept: bool


class Choice(NamedTuple):
    """The table of `keep: auto N`."""

    teacher: RecallAndLoss
    candidates: Sequence[KeepCandidate]

    @property
    def kept(self) -> list[int]:
        """The mixers that are kept."""
        return [candidate.mixer for candidate in self.candidates if candidate.kept]


def mixer_entries(plan: Plan) -> list[int]:
    """The entry of every mixer."""
    return [index for index, entry in enumerate(plan.entries) if entry.is_mixer]


def kept_mixers(keep: Sequence[int] | str, teacher: Plan) -> list[int]:
    """The mixers that a list or `last N` names, in order. Raises UserError where the teacher has no such mixers."""
    total = len(mixer_entries(teacher))
    if isinstance(keep, str):
        count = _count(keep, "last", total)
        return list(range(total - count, total))
    for number in keep:
        if not 0 <= number < total:
            places = ", ".join(map(str, mixer_entries(teacher)))
            raise UserError(
                f"convert.keep: {number}: the teacher's mixers are 0 to {total - 1}; their entries are {places}"
            )
    if len(set(keep)) < len(keep):
        raise UserError(f"convert.keep: a mixer is named twice: {', '.join(map(str, keep))}")
    return sorted(keep)


def auto_count(keep: str, teacher: Plan) -> int:
    """N of `auto N`. Raises UserError where the teacher has fewer mixers."""
    return _count(keep, "auto", len(mixer_entries(teacher)))


def _count(keep: str, word: str, total: int) -> int:
    said, _, number = keep.partition(" ")
    if said != word or not number.isdecimal():
        raise UserError(f"convert.keep: should be a list of mixers, `last N` or `auto N`, not {keep!r}")
    if not 1 <= int(number) <= total:
        raise UserError(f"convert.keep: {keep}: the teacher has {total} mixers; name 1 to {total}")
    return int(number)


def kept_pattern(student: Plan, teacher: Plan, kept: Collection[int]) -> str:
    """The student's pattern with the teacher's own entries as these mixers.

    Raises UserError unless mixers and FFNs stand at the same places in both.
    """
    check_places(teacher, student)
    places = mixer_entries(teacher)
    chosen = {places[number] for number in kept}
    entries = [_as_teacher(teacher, student, index) if index in chosen else entry for index, entry in _written(student)]
    return canonical(list(map(str, entries)))


def _written(plan: Plan) -> Iterator[tuple[int, Entry]]:
    """The entries that the pattern names, with their places in the stack."""
    step = len(plan.entries) // len(plan.written)  # 2 where an FFN was added after each
    return ((at * step, entry) for at, entry in enumerate(plan.written))


def _as_teacher(teacher: Plan, student: Plan, index: int) -> Entry:
    """The teacher's entry, its sizes written out where the student's defaults are others."""
    entry = teacher.entries[index]
    branches = [
        block if block.resolved(student.dims) == (whole := block.resolved(teacher.dims)) else whole
        for block in entry.branches
    ]
    return Entry(tuple(branches))


def choose_kept(
    teacher: Model,
    student: Model,
    count: int,
    measure: RecallMeasure,
    told: Callable[[int, RecallAndLoss], object] | None = None,
) -> Choice:
    """Score every mixer in which the two differ, and keep the `count` with the highest scores, the first of equal ones.

    `student` holds mixers that were aligned with the teacher's, each on its input; neither model is changed. `told` is
    called after each with its number. Raises UserError where fewer than `count` mixers differ.
    """
    check_fit(teacher.plan, student.plan)
    numbered = list(enumerate(mixer_entries(teacher.plan)))
    differing = [(n, entry) for n, entry in numbered if not same_entry(teacher.plan, student.plan, entry)]
    if not 1 <= count <= len(differing):
        raise UserError(
            f"convert.keep: auto {count}: name 1 to {len(differing)}, the mixers that differ from the teacher's"
        )
    whole = measure(teacher)
    found = []
    for number, entry in differing:
        found.append((number, entry, measure(swapped(teacher, student, entry))))
        if told:
            told(number, found[-1][2])
    scores = [_score(whole, without) for _, _, without in found]
    best = sorted(range(len(found)), key=lambda at: -scores[at])[:count]
    return Choice(
        whole,
        [KeepCandidate(*one, score, at in best) for at, (one, score) in enumerate(zip(found, scores, strict=True))],
    )


def _score(whole: RecallAndLoss, without: RecallAndLoss) -> float:
    return max(0.0, whole.recall - without.recall) / (max(0.0, without.loss - whole.loss) + EPS)


def swapped(teacher: Model, student: Model, entry: int) -> Model:
    """The teacher with the student's mixer at one entry. It shares the weights of both."""
    old, new = teacher.plan, student.plan
    entries = tuple(new.entries[at] if at == entry else one for at, one in enumerate(old.entries))
    with torch.device("meta"), Uninitialized():
        made = Model(Plan(entries, entries, old.config))
    made.embedding, made.norm, made.head = teacher.embedding, teacher.norm, teacher.head
    made.layers = nn.ModuleList(  # type: ignore[assignment]
        student.layers[at] if at == entry else layer for at, layer in enumerate(teacher.layers)
    )
    return made.eval()
