"""`ffn`: SwiGLU, its default width, its formula."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from hybridkit.block import Dims
from hybridkit_blocks.ffn import FeedForward
from hybridkit_blocks.ops import activation, feed_forward

DIMS = Dims(width=24, heads=2, vocab=257)


@pytest.mark.parametrize(("width", "inner"), [(24, 64), (25, 128), (48, 128), (256, 704), (2048, 5504), (4096, 10944)])
def test_default_width_is_eight_thirds_rounded_up(width: int, inner: int) -> None:
    assert FeedForward().inner(Dims(width, 4, 257)) == inner


def test_formula_and_cost() -> None:
    block = FeedForward(width=40)
    layer, x = block.build(DIMS).double(), torch.randn(2, 5, DIMS.width, dtype=torch.float64)
    y, state = layer(x, window=3)
    gate, up, down = (module.weight for module in (layer.gate, layer.up, layer.down))
    torch.testing.assert_close(y, (F.silu(x @ gate.T) * (x @ up.T)) @ down.T)
    assert state == () and block.flops(DIMS, 5) == 2 * 5 * sum(p.numel() for p in layer.parameters())


def gradients(layer: torch.nn.Module, x: Tensor, *, sliced: bool, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The output, and the gradients of input and weights."""
    monkeypatch.setattr(feed_forward, "product_type", lambda x, weight: x.dtype if sliced else None)
    y = layer(x)[0]
    return [y, *torch.autograd.grad(y, [x, *layer.parameters()], torch.linspace(-1, 1, y.numel()).to(y).view_as(y))]


@pytest.mark.parametrize("shape", [(2, 5), (1, 1), (3, 4), (1, 0)], ids=str)
def test_slices_of_tokens_give_what_the_formula_gives(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """float64, so that only the order of sums differs."""
    monkeypatch.setattr(feed_forward, "SLICE", 4)
    layer = FeedForward(width=40).build(DIMS).double()
    x = torch.randn(*shape, DIMS.width, dtype=torch.float64, requires_grad=True)
    ours, right = (gradients(layer, x, sliced=sliced, monkeypatch=monkeypatch) for sliced in (True, False))
    for mine, theirs in zip(ours, right, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)


def test_training_keeps_the_input_and_twice_the_width_between() -> None:
    layer, x, kept = FeedForward(width=40).build(DIMS), torch.randn(2, 5, DIMS.width, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t), lambda _: None):
        layer(x)
    weights = {p.data_ptr() for p in layer.parameters()}
    assert sum(t.numel() for t in kept if t.data_ptr() not in weights) == 2 * 5 * (DIMS.width + 2 * 40)


def test_counters_see_the_products_of_training() -> None:
    layer, x = FeedForward(width=40).build(DIMS), torch.randn(2, 5, DIMS.width, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        layer(x)[0].sum().backward()
    assert counter.get_total_flops() == 3 * 2 * FeedForward(width=40).flops(DIMS, 5)


ACTS = {
    "silu": lambda x: x / (1 + (-x).exp()),
    "gelu": lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2,
    "gelu_tanh": lambda x: x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2,
    "relu2": lambda x: x.clamp(min=0) ** 2,
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_other_functions_gates_and_biases(act: str, gated: bool, bias: bool) -> None:
    block = FeedForward(width=7, act=act, gated=gated, bias=bias)
    layer, x = block.build(DIMS).double(), torch.randn(2, 5, DIMS.width, dtype=torch.float64)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    up, f = layer.up(x), ACTS[act]
    right = layer.down(f(layer.gate(x)) * up if gated else f(up))
    torch.testing.assert_close(layer(x)[0], right)
    matrices = sum(p.numel() for p in layer.parameters() if p.dim() > 1)
    assert block.flops(DIMS, 5) == 2 * 5 * matrices and any(p.dim() == 1 for p in layer.parameters()) == bias
    norm = torch.nn.RMSNorm(DIMS.width, eps=1e-6, dtype=x.dtype)
    with torch.no_grad():
        stepped = layer.decoder(norm, rows=2)(x[:, :1], ())[0]
        torch.testing.assert_close(stepped, x[:, :1] + layer(norm(x[:, :1]))[0])


def test_a_clip_is_a_form_of_the_gated_silu() -> None:
    with pytest.raises(ValueError, match="leave act and gated out"):
        FeedForward(clip=7.0, act="gelu")
    made, block = torch.linspace(-9, 9, 8), FeedForward(clip=2.0)
    gate, up = made.chunk(2)
    gate, up = gate.clamp(max=2), up.clamp(-2, 2)
    torch.testing.assert_close(block.hidden(made), gate * torch.sigmoid(activation.SLOPE * gate) * (up + 1))
    assert str(FeedForward(act="silu", gated=True, bias=False)) == "ffn"


def test_a_gate_has_a_factor_before_its_function() -> None:
    block, x = FeedForward(width=7, gate_scale=0.3), torch.randn(2, 5, DIMS.width, dtype=torch.float64)
    layer = block.build(DIMS).double()
    torch.testing.assert_close(layer(x)[0], layer.down(ACTS["silu"](0.3 * layer.gate(x)) * layer.up(x)))
    for other in ({"gated": False}, {"clip": 7.0}):
        with pytest.raises(ValueError, match="gate_scale belongs to a gate without clip"):
            FeedForward(gate_scale=0.3, **other)


def test_under_autocast_slices_are_as_near_to_exact_results_as_autograd(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three slices, whose parts of a gradient are summed in fp32: at most a tenth more error than one sum's."""
    monkeypatch.setattr(feed_forward, "SLICE", 32)  # in fp32: 64 in bf16
    torch.manual_seed(0)
    layer = FeedForward(width=40).build(DIMS)
    x = torch.randn(2, 96, DIMS.width, requires_grad=True)
    slope = torch.randn(x.shape)

    def run() -> list[Tensor]:
        y = layer(x)[0]
        return [y, *torch.autograd.grad(y, [x, *layer.parameters()], slope.to(y.dtype))]

    exact = [t.double() for t in run()]
    errors = []
    for way in (None, lambda x, weight: None):
        with monkeypatch.context() as patch, torch.autocast("cpu", torch.bfloat16):
            if way:
                patch.setattr(feed_forward, "product_type", way)
            found = run()
            assert found[0].dtype == torch.float32
        errors.append([(a.double() - b).norm() / b.norm() for a, b in zip(found, exact, strict=True)])
    for ours, plain in zip(*errors, strict=True):
        assert 0 < ours <= 1.1 * plain < 0.02
