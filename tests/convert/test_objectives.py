"""What stages minimize: formulas written out, what stays as it is, and memory that is held once."""

from pathlib import Path

import pytest
import torch
from small_batch import batch
from torch.nn import functional as F

import hybridkit
from hybridkit.convert.head_loss import TopLogits
from hybridkit.convert.logit_cache import LogitCache
from hybridkit.convert.mapping import map_weights
from hybridkit.convert.objectives import Distil, Hidden, Teacher
from hybridkit.data.batches import IGNORED
from hybridkit.model.model import Model
from hybridkit.recipe.schema import Train
from hybridkit.system.files import FILES
from hybridkit.training.engines.local.engine import LocalEngine
from hybridkit.training.micro_batches import micro_batches, num_targets

TEACHER = hybridkit.build("sa*2", width=16, heads=2)
STUDENT = hybridkit.build("[swa:stoch(4,8), sa]", width=16, heads=2)
WINDOWS = [4, None, None, None]
NEW = [0]


def taught() -> Teacher:
    return Teacher(TEACHER.plan, "0" * 64, lambda: TEACHER)


def engine(precision: str = "fp64", plan: Model = STUDENT) -> LocalEngine:
    made = LocalEngine(plan.plan, Train(precision=precision, device="cpu", clip=None))
    map_weights(TEACHER, made.model)
    return made


@pytest.mark.parametrize("rows", [2, 5])
def test_hidden_is_the_error_of_what_an_entry_adds_and_trains_it_alone(rows: int) -> None:
    own, b = engine(), batch()
    objective = Hidden("hidden", taught(), (), NEW)
    objective.begin(own.model)
    own.minimize(objective)
    found = own.gradients(micro_batches(b, rows), WINDOWS, num_targets(b))

    teacher, x = TEACHER.double(), TEACHER.embedding(b.tokens)
    y, _ = teacher.layers[0](x, None, None, b.document_starts)
    z, _ = own.model.layers[0](x, None, [4], b.document_starts)
    counted = b.targets != IGNORED
    expected = F.mse_loss(z[counted], y[counted].detach(), reduction="sum") / 16
    assert found.nats == pytest.approx(expected.item(), rel=1e-12) and expected > 0
    assert found.metrics["mse.0"] == pytest.approx(expected.item() / num_targets(b))
    power = (y - x)[counted].square().sum().item() / 16 / num_targets(b)
    assert found.metrics["teacher_power"] == pytest.approx(power)
    (expected / num_targets(b)).backward(inputs=list(own.model.layers[0].parameters()))
    for name, parameter in own.model.named_parameters():
        assert (parameter.grad is not None) == name.startswith("layers.0."), name


def test_one_pass_trains_each_new_entry_as_if_it_were_the_only_one() -> None:
    both = hybridkit.build("[swa:4, mlstm]", width=16, heads=2)
    b, grads = batch(), {}
    for new in ([0], [2], [0, 2]):
        own = engine(plan=both)
        objective = Hidden("hidden", taught(), (), new)
        objective.begin(own.model)
        own.minimize(objective)
        own.gradients([b], WINDOWS, num_targets(b))
        grads[tuple(new)] = {n: p.grad * len(new) for n, p in own.model.named_parameters() if p.grad is not None}
    torch.testing.assert_close(grads[0, 2], grads[0,] | grads[2,])  # the mean over entries halves each


def test_a_student_that_equals_its_teacher_has_no_divergence() -> None:
    own, b = engine(plan=TEACHER), batch()
    objective = Distil("kl", taught(), (), {"kl": 1.0})
    objective.begin(own.model)
    own.minimize(objective)
    found = own.gradients([b], [None] * 4, num_targets(b))
    assert found.nats == pytest.approx(0, abs=1e-9) and found.norm == pytest.approx(0, abs=1e-12)


def test_validation_is_cross_entropy_whatever_is_minimized() -> None:
    own, b = engine(), batch()
    plain = own.evaluate([b], WINDOWS)
    objective = Distil("kl", taught(), (), {"kl": 1.0}, top_k=5)
    objective.begin(own.model)
    own.minimize(objective)
    assert own.evaluate([b], WINDOWS) == plain != own.gradients([b], WINDOWS, num_targets(b)).nats


def test_weights_that_stay_the_same_are_held_once_and_others_are_not() -> None:
    own, teacher = engine("fp32"), hybridkit.build("sa*2", width=16, heads=2)
    map_weights(teacher, own.model)
    fixed = ["embedding.", "layers.1.", "layers.2."]
    held = Teacher(teacher.plan, "0" * 64, lambda: teacher)
    held.place(own.model, fixed)
    theirs = dict(held.model.named_parameters())
    for name, parameter in own.model.named_parameters():
        shared = name in theirs and theirs[name].data_ptr() == parameter.data_ptr()
        assert shared == name.startswith(tuple(fixed)), name
    assert held.shared == sum(p.numel() * 4 for n, p in theirs.items() if n.startswith(tuple(fixed)))
    assert not any(p.requires_grad for p in held.model.parameters())


def test_logits_that_the_disk_has_changed_are_made_again(tmp_path: Path) -> None:
    """A flipped bit of a value would have been read as what the teacher says."""
    b, cache = batch(), LogitCache(tmp_path)
    says = TopLogits(torch.randn(4, 3), torch.arange(12).view(4, 3))
    assert cache.get(b, lambda: says) is says
    kept = cache.get(b, lambda: pytest.fail("it was kept"))
    assert torch.equal(kept.values, says.values) and torch.equal(kept.ids, says.ids)
    (file,) = tmp_path.rglob("*.safetensors")
    whole = file.read_bytes()
    place = whole.index(says.values.numpy().tobytes())
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    assert cache.get(b, lambda: says) is says and file.read_bytes() == whole
    FILES.tensors(file, kept._asdict())  # as older versions wrote it
    assert cache.get(b, lambda: says) is says
