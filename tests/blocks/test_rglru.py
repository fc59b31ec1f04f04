"""The RG-LRU block: its laws, the recurrence written from the equations, and transformers' RecurrentGemma."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from laws import both_precisions, every_bf16_law, every_law, random_layer
from torch import Tensor, nn

import hybridkit_blocks.ops.gated_recurrence as module
from hybridkit import testing
from hybridkit.block import Block, Dims
from hybridkit_blocks.rglru import Rglru, RglruLayer

DIMS = Dims(width=32, heads=4, vocab=257, depth=2)
PLAIN, NARROW = Rglru(), Rglru(heads=2, width=24, conv=3)


@every_law
@pytest.mark.parametrize("block", [PLAIN, pytest.param(NARROW, marks=pytest.mark.slow)], ids=str)
def test_law(block: Block, law: Callable[[Block, Dims], None]) -> None:
    law(block, DIMS)


@pytest.mark.slow
@both_precisions
@every_bf16_law
def test_law_in_bf16(law: Callable[..., None], precision: testing.Arithmetic) -> None:
    law(PLAIN, DIMS, precision)


def recurrence(layer: RglruLayer, x: Tensor, document_starts: Tensor) -> Tensor:
    """Griffin's equations, a token at a time, each document alone."""
    rows, taps = [], layer.conv.weight.shape[1]
    for row, marks in zip(x, document_starts, strict=True):
        h, past, outputs = None, [], []
        for token, begins in zip(row, marks, strict=True):
            h, past = (None, []) if begins else (h, past)
            past = [*past, layer.linear_x(token)][-taps:]
            weights = layer.conv.weight[:, taps - len(past) :].T
            u = layer.conv.bias + sum(tap * seen for tap, seen in zip(weights, past, strict=True))
            i, r = (
                torch.sigmoid(torch.block_diag(*gate.weight).T @ u + gate.bias) for gate in (layer.igate, layer.rgate)
            )
            a = torch.sigmoid(-layer.decay) ** (8 * r)
            h = i * u if h is None else a * h + (1 - a**2).sqrt() * i * u
            outputs.append(layer.linear_out(h * F.gelu(layer.linear_y(token), approximate="tanh")))
        rows.append(torch.stack(outputs))
    return torch.stack(rows)


@pytest.mark.parametrize("span", [2**18, 40], ids=["one span", "spans"])
@pytest.mark.parametrize("block", [PLAIN, NARROW], ids=str)
def test_the_layer_is_the_recurrence(block: Rglru, span: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and all gradients, over documents that begin anywhere, and over more tokens than a square number."""
    monkeypatch.setattr(module, "SPAN_ELEMENTS", span * 2 * (block.width or 32) if span < 100 else span)
    layer = random_layer(block, DIMS)
    x = torch.randn(2, 53, 32, dtype=torch.float64, requires_grad=True)
    document_starts = torch.rand(2, 53) < 0.1
    document_starts[0, 0] = document_starts[1, 40] = document_starts[1, 41] = True
    found = []
    for y in (layer(x, document_starts=document_starts)[0], recurrence(layer, x, document_starts)):
        slope = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y)
        found.append([y, *torch.autograd.grad(y, [x, *layer.parameters()], slope)])
    for ours, right in zip(*found, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_outputs_and_every_gradient_are_those_of_recurrent_gemma(dtype: torch.dtype) -> None:
    """Theirs adds up in fp32 whatever the type, token by token; so float64 agrees to some roundings of 2^-24."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRecurrentBlock

    torch.manual_seed(0)
    config = transformers.RecurrentGemmaConfig(hidden_size=32, lru_width=24, num_attention_heads=2, conv1d_width=3)
    theirs, ours = RecurrentGemmaRecurrentBlock(config, 0), NARROW.build(DIMS)
    names = {
        "conv": "conv_1d",
        "igate.weight": "rg_lru.input_gate_weight",
        "igate.bias": "rg_lru.input_gate_bias",
        "rgate.weight": "rg_lru.recurrent_gate_weight",
        "rgate.bias": "rg_lru.recurrent_gate_bias",
        "decay": "rg_lru.recurrent_param",
    }
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    theirs, ours = theirs.to(dtype), ours.to(dtype)
    other = {}
    for name, mine in ours.named_parameters():
        head, _, tail = name.partition(".")
        other[name] = theirs.get_parameter(names.get(name) or f"{names.get(head, head)}.{tail}")
        mine.data.copy_(other[name].view_as(mine))
    assert len(other) == len(list(theirs.parameters()))

    x = torch.randn(2, 50, 32, dtype=dtype, requires_grad=True)
    right, _ = theirs(x, torch.arange(50).expand(2, -1), None, use_cache=False)
    y, slope = ours(x)[0], torch.randn(2, 50, 32, dtype=dtype)
    grads = torch.autograd.grad(y, [x, *ours.parameters()], slope)
    expected = torch.autograd.grad(right, [x, *other.values()], slope)
    for name, mine, their in zip(["y", "x", *other], [y, *grads], [right, *expected], strict=True):
        error = (mine.double() - their.double().view_as(mine)).norm() / their.double().norm()
        assert error < 2e-6, f"{name}: {error:.2g}"


def test_initial_weights_are_those_of_recurrent_gemma() -> None:
    torch.manual_seed(0)
    layer = Rglru(heads=2).build(Dims(width=256, heads=4, vocab=1, depth=8))
    radius = torch.exp(-F.softplus(layer.decay.double()))
    assert 0.9 - 1e-6 <= radius.min() < 0.905 and 0.995 < radius.max() <= 0.999 + 1e-6  # of 256 draws
    for weight, std in (
        (layer.linear_x.weight, 1 / 16),
        (layer.linear_y.weight, 1 / 16),
        (layer.linear_out.weight, (2 / 8 / 256) ** 0.5),
        (layer.igate.weight, (0.01 / 128) ** 0.5),
        (layer.rgate.weight, (0.01 / 128) ** 0.5),
        (layer.conv.weight, 0.05),
    ):
        assert weight.std().item() == pytest.approx(std, rel=0.07)  # of 1024 draws and more: 2.2 % at one sigma
    assert not any(module.bias.any() for module in (layer.linear_x, layer.linear_out, layer.conv, layer.igate))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"3 heads do not divide the width 32; heads may be 1, 2, 4, 8, 16, 32"):
        Rglru(heads=3).build(DIMS)
    with pytest.raises(ValueError, match="rglru has no window"):
        PLAIN.build(DIMS)(torch.zeros(1, 2, 32), window=4)


def test_biases_of_gates_do_not_decay() -> None:
    layer = PLAIN.build(DIMS)
    assert {weight.dim() for weight in (layer.decay, layer.igate.bias, layer.rgate.bias)} == {1}


def test_the_operator_for_compiled_layers_is_the_same() -> None:
    torch.manual_seed(0)
    shapes = (2, 30, 4, 8), (2, 30, 4, 8), (2, 30, 4, 8), (32,), (2, 32)
    leaves = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    begins, found = torch.rand(2, 30) < 0.1, []
    for run in (module.recurrence, torch.ops.hybridkit.rglru):
        h, last = run(*leaves, begins)
        found.append([h, last, *torch.autograd.grad(h.square().sum() + last.sum(), leaves)])
    torch.testing.assert_close(*found, rtol=0, atol=0)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.hybridkit.rglru, (*leaves, begins), test_utils=checks)
