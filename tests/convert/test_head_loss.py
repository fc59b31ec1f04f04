"""Losses against the teacher's logits: equal to their formulas on whole logits, values and gradients, in float64."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hybridkit.convert import head_loss
from hybridkit.convert.head_loss import AllLogits, distilled
from hybridkit.data.batches import IGNORED
from hybridkit.model.model import Head

N, D, V = 23, 6, 11


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def teacher(cap: float | None = None) -> Head:
    head = Head(D, V, cap, scale=1.5).double()
    with torch.no_grad():
        head.weight.copy_(drawn(V, D, seed=3))
    return head


def targets() -> Tensor:
    found = torch.arange(N) % V
    found[::4] = IGNORED
    return found


def formula(logits: Tensor, p: Tensor, k: int | None) -> tuple[Tensor, Tensor]:
    """Cross-entropy and divergence of (n, V) logits; of the k largest p and the rest as one more class."""
    wanted = targets()
    ce = F.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum")
    q = logits.softmax(1)
    if k is not None and k < V:
        ids = p.topk(k, 1).indices
        p, q = (torch.cat([t.gather(1, ids), 1 - t.gather(1, ids).sum(1, keepdim=True)], 1) for t in (p, q))
    each = (p * (p.log() - q.log())).sum(1)
    return ce, each[wanted != IGNORED].sum()


@pytest.mark.parametrize("k", [None, 1, 4, V, V + 5])
@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("factors", [{"kl": 1.0}, {"ce": 0.9, "kl": 0.1}])
def test_values_and_gradients_are_those_of_whole_logits(
    k: int | None, cap: float | None, factors: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(head_loss.SLICE, "cpu", 5 * V)  # slices of 5 tokens, the last one shorter
    x, weight = drawn(N, D, seed=1).requires_grad_(), drawn(V, D, seed=2).requires_grad_()
    head, h, wanted = teacher(cap), drawn(N, D, seed=4), targets()
    every = AllLogits(head, h[wanted != IGNORED])
    told: dict[str, float] = {}

    def add(name: str, value: Tensor) -> None:
        told[name] = told.get(name, 0.0) + value.item()

    top = every if k is None else every.top(k)
    if k is not None:
        top = top._replace(values=every.log_p(slice(None)).gather(1, top.ids.long()))  # kept in fp32 otherwise
    loss = distilled(factors, top, add)(x, weight, wanted, cap, 0.0)
    got = torch.autograd.grad(loss, [x, weight])

    logits = x @ weight.T
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    ce, kl = formula(logits, head(h).softmax(1).detach(), k)
    expected = factors.get("ce", 0.0) * ce + factors["kl"] * kl
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(got, torch.autograd.grad(expected, [x, weight]))
    assert told["kl"] == pytest.approx(kl.item()) and ("ce" in told) == ("ce" in factors)


def test_the_divergence_of_fewer_logits_is_smaller_and_that_from_itself_is_zero() -> None:
    head, h, x = teacher(), drawn(N, D, seed=4), drawn(N, D, seed=5)
    every = AllLogits(head, h)
    log_q = head(x).log_softmax(1).detach()
    found = [every.top(k).divergence(log_q, slice(None)).item() for k in (1, 3, 6, V)]
    assert found == sorted(found) and found[-1] == pytest.approx(every.divergence(log_q, slice(None)).item(), rel=1e-6)
    own = every.log_p(slice(None))
    for said in (every, every.top(3)):
        assert said.divergence(own, slice(None)).item() == pytest.approx(0, abs=1e-5)  # values of fp32


def test_the_z_loss_is_minimized_and_not_told() -> None:
    x, weight, wanted = drawn(N, D, seed=1).requires_grad_(), drawn(V, D, seed=2), targets()
    counted = wanted != IGNORED
    every = AllLogits(teacher(), drawn(N, D, seed=4)[counted])
    plain, with_z = (
        distilled({"kl": 1.0}, every, lambda name, value: None)(x, weight, wanted, None, z) for z in (0.0, 0.1)
    )
    assert plain.item() == with_z.item()
    square = 0.1 * (x @ weight.T)[counted].logsumexp(1).square().sum()
    grads = [torch.autograd.grad(one, x, retain_graph=True)[0] for one in (plain, with_z, square)]
    torch.testing.assert_close(grads[1], grads[0] + grads[2])


def test_a_batch_without_targets_is_zero() -> None:
    x, weight = drawn(4, D).requires_grad_(), drawn(V, D).requires_grad_()
    every = AllLogits(teacher(), drawn(0, D))
    loss = distilled({"kl": 1.0}, every.top(3), lambda name, value: None)(
        x, weight, torch.full((4,), IGNORED), None, 0.0
    )
    loss.backward()
    assert loss.item() == 0 and not x.grad.any() and not weight.grad.any()
