"""The sliced cross-entropy against torch's own, and its memory."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from hybridkit.data.batches import IGNORED
from hybridkit.model import loss
from hybridkit.model.loss import cap_logits, linear_cross_entropy


def case(seed: int = 0, tokens: int = 37, width: int = 8, vocab: int = 50) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(seed)
    x = torch.randn(tokens, width, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(vocab, width, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(vocab, (tokens,))
    targets[::5] = IGNORED
    return x, weight, targets


@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("size", [1, 50 * 4, 2**25])  # one row, four rows and all rows at a time
def test_equals_torchs_cross_entropy(cap: float | None, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loss._SLICE, "cpu", size)
    x, weight, targets = case()
    ours = linear_cross_entropy(x, weight, targets, cap)
    theirs = F.cross_entropy(cap_logits(x @ weight.T, cap), targets, reduction="sum", ignore_index=IGNORED)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad(3 * ours, [x, weight]), torch.autograd.grad(3 * theirs, [x, weight]), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("z_loss", [0.0, 0.3])
@pytest.mark.parametrize("spare", [0, 14])
def test_the_form_for_a_compiler_is_the_same_and_one_graph(cap: float | None, z_loss: float, spare: int) -> None:
    torch.manual_seed(1)
    logits, targets = 2 * torch.randn(20, 50, dtype=torch.float64), torch.randint(50, (20,))
    targets[::5] = IGNORED
    logits = F.pad(logits, (0, spare))
    compiled = torch.compile(loss.loss_for_compiler, fullgraph=True, backend="aot_eager", dynamic=False)
    for form in (loss.loss_for_compiler, compiled):
        found = form(logits, targets, 50, cap, z_loss)
        for have, want in zip(found, loss.loss_in_place(logits.clone(), targets, 50, cap, z_loss), strict=True):
            torch.testing.assert_close(have, want, rtol=1e-12, atol=1e-12)  # sums of 50 terms in float64
        assert not found[1][:, 50:].any()


def test_nothing_counted_is_a_loss_of_zero() -> None:
    x, weight, targets = case()
    total = linear_cross_entropy(x, weight, torch.full_like(targets, IGNORED))
    total.backward()
    assert total.item() == 0 and x.grad is not None and not x.grad.any()


def test_under_autocast_the_loss_is_fp32_and_near() -> None:
    x, weight, targets = (t.float() if t.is_floating_point() else t for t in case())
    exact = linear_cross_entropy(x, weight, targets)
    with torch.autocast("cpu", torch.bfloat16):
        rough = linear_cross_entropy(x, weight, targets)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=2e-2, atol=0)  # bf16 keeps 8 bits of each logit


@pytest.mark.slow
def test_a_large_vocabulary_and_a_long_sequence_stay_under_the_bound() -> None:
    """Vocabulary 131072 and 16384 tokens: all logits at once would take 8 GiB in fp32."""
    code = """
import resource, torch
from hybridkit.model.loss import linear_cross_entropy
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
x = torch.randn(2048, 16, requires_grad=True); w = torch.randn(131072, 16, requires_grad=True)
linear_cross_entropy(x, w, torch.randint(131072, (2048,))).backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # 2048 tokens are eight slices: whatever does not grow from slice to slice does not grow with the sequence.
    assert int(done.stdout) * 1024 < 1.0e9, "the logits of 2048 tokens alone are 1.07e9 bytes"
