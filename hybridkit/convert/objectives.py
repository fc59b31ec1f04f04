"""What the stages of a conversion minimize, with the teacher beside the student.

B batch, T tokens, D width.

hidden: every new entry of the student reads what the teacher's entry reads, x (B, T, D), and should add the same to it:
the mean over new entries and D of (student(x) - teacher(x))^2, summed over the tokens whose targets count. All entries
are trained in one pass of the teacher; no gradient leaves an entry.

distil: cross-entropy and the divergence from the teacher's logits, with factors (`head_loss`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from hybridkit.block import GivenWindow, TrainStep
from hybridkit.convert.head_loss import AllLogits, TopLogits, distilled
from hybridkit.convert.logit_cache import LogitCache
from hybridkit.cost.flops import TRAINING, forward_flops
from hybridkit.data.batches import IGNORED, Batch
from hybridkit.model.model import Model
from hybridkit.model.plan import Plan, entry_branches
from hybridkit.model.residual import BranchWindows
from hybridkit.runs.weights import weights_of
from hybridkit.training.objective import Objective


class Teacher:
    """A trained model without gradients, loaded when training begins."""

    def __init__(self, plan: Plan, sha256: str, load: Callable[[], Model]) -> None:
        self.plan, self.sha256, self._load = plan, sha256, load
        self.windows = plan.windows(TrainStep(0, 0, 1, training=False))
        self.shared = 0  # bytes of weights that it shares with the student

    def place(self, student: Model, frozen: Sequence[str]) -> None:
        """Put the teacher where the student is. Weights that are the same for the whole stage are held once.

        `frozen`: how the names of weights begin that do not change in the stage.
        """
        weight = student.head.weight
        self.model = self._load().to(weight.device, weight.dtype).requires_grad_(False).eval()
        own = weights_of(student)
        for name, parameter in self.model.named_parameters():
            same = name.startswith(tuple(frozen)) and name in own and torch.equal(own[name], parameter)
            if same:
                parameter.data = own[name]
                self.shared += parameter.numel() * parameter.element_size()

    @property
    def held_bytes(self) -> int:
        """Bytes of its weights beside the student's."""
        return sum(weight.numel() * weight.element_size() for weight in self.model.parameters()) - self.shared


class _Taught(Objective):
    """With a teacher."""

    nats: ClassVar[bool] = False

    def __init__(self, name: str, teacher: Teacher, frozen: Sequence[str]) -> None:
        super().__init__()
        self._name, self.teacher, self._frozen = name, teacher, frozen

    def begin(self, model: Model) -> None:
        self.teacher.place(model, self._frozen)

    @property
    def held_bytes(self) -> int:
        return self.teacher.held_bytes

    def entries(self) -> Mapping[str, str]:
        return {"objective": self._name, "teacher": self.teacher.sha256}


class Hidden(_Taught):
    """The mean squared error of what new entries add to the residual stream. `new`: their places."""

    def __init__(self, name: str, teacher: Teacher, frozen: Sequence[str], new: Sequence[int]) -> None:
        super().__init__(name, teacher, frozen)
        self._new = new

    def __call__(self, model: Model, batch: Batch, windows: BranchWindows) -> Tensor:
        counted, starts, teacher = batch.targets != IGNORED, batch.document_starts, self.teacher
        students = list(model.spans())
        errors, x = list[Tensor](), teacher.model.embedding(batch.tokens)
        for index, (layer, own) in zip(range(max(self._new) + 1), teacher.model.spans(), strict=False):
            with torch.no_grad():
                y, _ = layer(x, None, teacher.windows[own], starts)
            if index in self._new:
                student, branches = students[index]
                z, _ = student(x, None, windows[branches], starts)
                errors.append(_square(z - y, counted))
                self.add(f"mse.{index}", errors[-1])
                self.add("teacher_power", _square(y - x, counted) / len(self._new))  # the error of an entry that is 0
            x = y
        return torch.stack(errors).sum() / len(errors)

    def flops(self, plan: Plan, tokens: int, windows: Sequence[int | None]) -> int:
        """Training of the new entries, and the teacher's entries up to the last of them."""
        read = _entry_flops(self.teacher.plan, range(max(self._new) + 1), tokens, self.teacher.windows)
        return TRAINING * _entry_flops(plan, self._new, tokens, windows) + read


class Distil(_Taught):
    """Cross-entropy and divergence from the teacher's logits, or from its `top_k` largest, which a cache may keep."""

    def __init__(
        self,
        name: str,
        teacher: Teacher,
        frozen: Sequence[str],
        factors: Mapping[str, float],
        top_k: int | None = None,
        cache: LogitCache | None = None,
    ) -> None:
        super().__init__(name, teacher, frozen)
        self._factors, self._top_k, self._cache = factors, top_k, cache

    def __call__(self, model: Model, batch: Batch, windows: BranchWindows) -> Tensor:
        loss, _ = model(
            batch.tokens,
            windows=windows,
            document_starts=batch.document_starts,
            targets=batch.targets,
            loss=distilled(self._factors, self._said(batch), self.add),
            keep_states=False,
        )
        return loss

    def flops(self, plan: Plan, tokens: int, windows: Sequence[int | None]) -> int:
        """Training of the student, and the teacher's forward pass, which does not count where its logits are cached."""
        read = 0 if self._cache else forward_flops(self.teacher.plan, tokens)
        return super().flops(plan, tokens, windows) + read

    def _said(self, batch: Batch) -> TopLogits | AllLogits:
        """What the teacher says of the tokens whose targets count."""
        k, cache = self._top_k, self._cache
        if k is None:
            return self._all(batch)
        return cache.get(batch, lambda: self._all(batch).top(k)) if cache else self._all(batch).top(k)

    @torch.no_grad()
    def _all(self, batch: Batch) -> AllLogits:
        teacher = self.teacher
        x, _ = teacher.model.hidden(
            batch.tokens, windows=teacher.windows, document_starts=batch.document_starts, keep_states=False
        )
        return AllLogits(teacher.model.head, x[batch.targets != IGNORED])


def _entry_flops(plan: Plan, entries: Iterable[int], tokens: int, windows: Sequence[GivenWindow]) -> int:
    """Forward FLOPs of some entries on one sequence. `windows`: one a branch."""
    wanted = {branch.name for index in entries for branch in entry_branches(index, plan.entries[index])}
    asked = [pair for pair in zip(plan.branches, windows, strict=True) if pair[0].name in wanted]
    return sum(branch.block.flops(plan.dims, tokens, window) for branch, window in asked)


def _square(x: Tensor, counted: Tensor) -> Tensor:
    """The mean over D of x^2, summed over the tokens that count."""
    return x[counted].to(torch.promote_types(x.dtype, torch.float32)).square().mean(-1).sum()
