"""The chunkwise SSD scan against the recurrence, in float64: carried states, documents, spans."""

import pytest
import torch
from torch import Tensor

import hybridkit_blocks.ops.ssd as module
from hybridkit_blocks.ops.ssd import ssd, ssd_tiles, step_

B, H, P, N = 2, 4, 3, 5


def recurrence(
    mixed: Tensor, dt: Tensor, log_a: Tensor, skip: Tensor, S: Tensor, document_starts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    groups, outputs = (mixed.shape[-1] - H * P) // (2 * N), []
    x, b, c = mixed.split([H * P, groups * N, groups * N], -1)
    b, c = (t.unflatten(-1, (groups, N)).repeat_interleave(H // groups, 2) for t in (b, c))
    for t in range(mixed.shape[1]):
        if document_starts is not None:
            S = S * ~document_starts[:, t, None, None, None]
        x_t = x[:, t].unflatten(-1, (H, P))
        S = log_a[:, t].exp()[..., None, None] * S + (dt[:, t, :, None] * x_t)[..., None] * b[:, t, :, None]
        outputs.append(torch.einsum("bhpn,bhn->bhp", S, c[:, t]) + skip[:, None] * x_t)
    return torch.stack(outputs, 1), S


def inputs(tokens: int, groups: int) -> list[Tensor]:
    torch.manual_seed(tokens)
    dt = torch.rand(B, tokens, H, dtype=torch.float64)
    log_a = -5 * torch.rand(B, tokens, H, dtype=torch.float64) ** 4
    shapes = (B, tokens, H * P + 2 * groups * N), (H,), (B, H, P, N)
    mixed, skip, state = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    return [t.requires_grad_() for t in (mixed, dt, log_a, skip, state)]


def documents(tokens: int) -> Tensor:
    """Starts at random, at position 0, three in a row, and on both sides of every chunk's border."""
    document_starts, length = torch.rand(B, tokens) < 0.05, ssd_tiles(tokens)[1]
    document_starts[0, 0] = True
    document_starts[1, tokens // 2 : tokens // 2 + 3] = True
    document_starts[0, length::length] = True
    document_starts[1, length - 1 :: length] = True
    return document_starts


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("tokens", [1, 7, 65, 200])
@pytest.mark.parametrize("packed", [False, True], ids=["one document", "packed"])
def test_chunkwise_is_the_recurrence(tokens: int, groups: int, packed: bool) -> None:
    leaves, found = inputs(tokens, groups), []
    marks = documents(tokens) if packed else None
    for form in (ssd, recurrence):
        made = form(*leaves, marks)
        slopes = [torch.cos(torch.arange(t.numel(), dtype=t.dtype)).view_as(t) for t in made]
        found.append([*made, *torch.autograd.grad(made, leaves, slopes, allow_unused=True)])
    for ours, right in zip(*found, strict=True):
        torch.testing.assert_close(ours, torch.zeros_like(ours) if right is None else right, rtol=1e-11, atol=1e-11)


def test_a_long_sequence_taken_span_by_span_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves, found = inputs(300, 2), []
    marks = documents(300)
    for span in (2**19, 1):
        monkeypatch.setattr(module, "SPAN_ELEMENTS", span)
        y, state = ssd(*leaves, marks)
        found.append([y, state, *torch.autograd.grad(y.square().sum() + state.sum(), leaves)])
    for ours, right in zip(*found, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-12, atol=1e-12)


def test_the_step_in_place_is_the_recurrence() -> None:
    with torch.no_grad():
        mixed, dt, log_a, skip, state = inputs(9, 2)
        y, after = recurrence(mixed, dt, log_a, skip, state)
        own = state.clone()
        steps = [step_(mixed[:, t], dt[:, t], log_a[:, t], skip, own) for t in range(9)]
    torch.testing.assert_close(torch.stack(steps, 1), y, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(own, after, rtol=1e-12, atol=1e-12)


def test_near_tokens_are_exact_behind_large_decays() -> None:
    """In fp32: after logarithms of -6000 in a chunk, pairs of tokens that hardly decay keep seven digits."""
    mixed, dt, log_a, skip, state = (t.detach() for t in inputs(64, 1))
    log_a = torch.where(torch.arange(64)[:, None] < 40, -150, -1e-3).to(log_a).expand_as(log_a)
    right = ssd(mixed, dt, log_a, skip, state)[0]
    found = ssd(*(t.float() for t in (mixed, dt, log_a, skip, state)))[0]
    assert (found - right).norm() < 1e-6 * right.norm()


@pytest.mark.parametrize("packed", [False, True])
def test_the_operator_for_compiled_layers_is_the_same(packed: bool) -> None:
    leaves, marks = inputs(70, 2), documents(70) if packed else None
    found = []
    for run in (ssd, torch.ops.hybridkit.ssd):
        y, state = run(*leaves, marks)
        found.append([y, state, *torch.autograd.grad(y.square().sum() + state.sum(), leaves)])
    torch.testing.assert_close(*found, rtol=0, atol=0)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.hybridkit.ssd, (*leaves, marks), test_utils=checks)
