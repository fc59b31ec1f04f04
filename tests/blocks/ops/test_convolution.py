"""The causal depthwise convolution: against torch's own on each document alone, in float64; both of its forms."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hybridkit_blocks.ops import convolution
from hybridkit_blocks.ops.activation import IDENTITY, SILU, Activation
from hybridkit_blocks.ops.convolution import (
    Convolution,
    convolution_flops,
    convolution_reference,
    convolution_state,
)

B, C = 2, 6


def layer(
    kernel: int = 4, bias: bool = True, activation: Activation = SILU, dtype: torch.dtype = torch.float64
) -> Convolution:
    torch.manual_seed(kernel)
    return Convolution(C, kernel, bias, activation).to(dtype)


def documents(tokens: int) -> Tensor:
    """Starts at random, at position 0, three in a row, and at the last token."""
    document_starts = torch.rand(B, tokens, generator=torch.Generator().manual_seed(1)) < 0.1
    document_starts[0, 0] = document_starts[1, -1] = True
    document_starts[1, tokens // 2 : tokens // 2 + 3] = True
    return document_starts


def alone(conv: Convolution, x: Tensor, state: Tensor, document_starts: Tensor | None) -> Tensor:
    """torch's convolution of each document of each row by itself; the first of a row goes on from the state."""
    rows = []
    for row in range(len(x)):
        cuts = [] if document_starts is None else document_starts[row].nonzero().flatten().tolist()
        parts = x[row].tensor_split(cuts)
        before = [state[row], *(torch.zeros_like(state[row]) for _ in cuts)]
        rows.append(torch.cat([_plain(conv, torch.cat(pair)) for pair in zip(before, parts, strict=True)]))
    return torch.stack(rows)


def _plain(conv: Convolution, document: Tensor) -> Tensor:
    """(k - 1 + T, C) to (T, C)."""
    if len(document) < conv.weight.shape[1]:
        return document[:0]
    y = F.conv1d(document.T[None], conv.weight[:, None], conv.bias, groups=C)[0].T
    return F.silu(y) if conv.activation is SILU else y


@pytest.fixture(params=["sliced", "summed"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of 16 tokens, so that short calls have several; and the form of other devices."""
    monkeypatch.setattr(convolution, "SLICE_ELEMENTS", 1)
    if request.param == "summed":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)


CASES = [
    (1, True, SILU),
    (2, False, IDENTITY),
    (3, True, IDENTITY),
    (4, True, SILU),
    (4, False, SILU),
    (20, False, SILU),
]


@pytest.mark.parametrize("packed", [False, True], ids=["one document", "packed"])
@pytest.mark.parametrize("tokens", [1, 2, 5, 50])
@pytest.mark.parametrize(("kernel", "bias", "activation"), CASES)
@pytest.mark.usefixtures("form")
def test_each_document_has_what_torch_gives_it_alone(
    kernel: int, bias: bool, activation: Activation, tokens: int, packed: bool
) -> None:
    """Outputs and the gradients of x, of weights and of the carried state."""
    conv = layer(kernel, bias, activation)
    x, slope = torch.randn(2, B, tokens, C, dtype=torch.float64)
    state = torch.randn(B, kernel - 1, C, dtype=torch.float64).requires_grad_()
    starts, leaves = documents(tokens) if packed else None, [x.requires_grad_(), state, *conv.parameters()]
    found = [conv(x, state, starts)[0], alone(conv, x, state, starts)]
    for actual, expected in zip(*([y, *_gradients(y, leaves, slope)] for y in found), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def _gradients(y: Tensor, leaves: list[Tensor], slope: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(y, leaves, slope, allow_unused=True)
    return [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, found, strict=True)]


@pytest.mark.parametrize("kernel", [1, 3, 4, 20])
@pytest.mark.usefixtures("form")
def test_any_cut_gives_the_same_and_its_gradient_passes_the_state(kernel: int) -> None:
    conv, starts = layer(kernel), documents(40)
    x = torch.randn(B, 40, C, dtype=torch.float64, requires_grad=True)
    whole, last = conv(x, None, starts)
    parts, state = [], convolution_state(B, C, kernel, dtype=torch.float64)
    for part in (slice(0, 1), slice(1, 3), slice(3, 21), slice(21, 21), slice(21, 40)):
        y, state = conv(x[:, part], state, starts[:, part])
        parts.append(y)
    slope = torch.randn_like(whole)
    for actual, expected in ((torch.cat(parts, 1), whole), (state, last)):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    ours, right = (torch.autograd.grad(y, x, slope)[0] for y in (torch.cat(parts, 1), whole))
    torch.testing.assert_close(ours, right, rtol=1e-12, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("kernel", [1, 4])
def test_steps_are_the_call_and_keep_their_state_in_place(kernel: int) -> None:
    conv, x = layer(kernel), torch.randn(B, 9, C, dtype=torch.float64)
    whole, last = conv(x)
    state = convolution_state(B, C, kernel, dtype=torch.float64)
    address = state.data_ptr()
    steps = torch.stack([conv.step(x[:, t], state) for t in range(9)], 1)
    torch.testing.assert_close(steps, whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, last, rtol=0, atol=0)
    assert state.data_ptr() == address


@pytest.mark.usefixtures("form")
def test_nothing_at_all_crosses_a_start() -> None:
    """Not even as a product with zero: what is not a number stays in its document."""
    conv, x, starts = layer(), torch.randn(B, 30, C, dtype=torch.float64), torch.zeros(B, 30, dtype=torch.bool)
    starts[:, 10] = True
    x[:, :10] = torch.nan
    y, state = conv(x, None, starts)
    assert y[:, 10:].isfinite().all() and state.isfinite().all()


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_sums_are_at_least_fp32(dtype: torch.dtype) -> None:
    conv, x = layer(20, dtype=dtype), torch.randn(B, 50, C).to(dtype)
    right = conv.double()(x.double())[0]
    y, state = conv.to(dtype)(x)
    assert y.dtype == state.dtype == dtype
    error = (y.double() - right).abs()
    # the output is rounded once; fp32 sums of 20 taps are below that for bf16, and 20 roundings for fp32
    assert (error <= (0.5 if dtype == torch.bfloat16 else 20) * torch.finfo(dtype).eps * right.abs().clamp(min=1)).all()


def test_flops_are_those_of_its_products() -> None:
    with FlopCounterMode(display=False) as counter:
        convolution_reference(C, 4, 10)()
    assert counter.get_total_flops() == convolution_flops(C, 4, 10) == 2 * 10 * C * 4


def test_training_keeps_its_input_alone() -> None:
    conv, x, kept = layer(), torch.randn(B, 50, C, dtype=torch.float64, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t), lambda _: None):
        conv(x)
    weights = {p.data_ptr() for p in conv.parameters()}
    assert sum(t.numel() for t in kept if t.data_ptr() not in weights) == x.numel() + B * 3 * C


def test_its_start_is_that_of_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = Convolution(5000, 4, bias=True), torch.nn.Conv1d(5000, 5000, 4, groups=5000)
    for mine, right in ((ours.weight, theirs.weight), (ours.bias, theirs.bias)):
        assert mine.abs().max() <= 0.5 and mine.std().item() == pytest.approx(right.std().item(), rel=0.03)
