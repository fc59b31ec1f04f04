"""The mLSTM cell and block: the chunkwise form against the recurrence written out, in float64."""

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from sums import of_mlstm
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import hybridkit_blocks.ops.mlstm_chunkwise as chunkwise_module
from hybridkit.block import Dims
from hybridkit_blocks import mlstm
from hybridkit_blocks.mlstm import Mlstm
from hybridkit_blocks.ops.mlstm_chunkwise import MlstmState, chunkwise_mlstm, mlstm_tiles, recurrent_mlstm_

B, H, K, V = 2, 3, 4, 6
DIMS = Dims(width=32, heads=4, vocab=257)
ROUNDING = 1e-11  # of sums of a hundred gates near 40, relative to the largest result: some 1e4 x 2^-53
SIZES = {1: "gates near 1", 12: "gates near the cap of 15", 40: "gates beyond it"}


def recurrence(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: MlstmState, document_starts: Tensor | None = None
) -> tuple[Tensor, MlstmState]:
    """The xLSTM paper's equations, token by token; every operation differentiable by autograd."""
    (C, n, m), outputs = state, []
    for t in range(q.shape[2]):
        if document_starts is not None:
            old = (~document_starts[:, t]).to(C.dtype)[:, None, None]
            C, n, m = C * old[..., None], n * old, m * old
        log_f, log_i = F.logsigmoid(f[:, :, t, None]), i[:, :, t, None]
        new = torch.maximum(log_f + m, log_i)
        keep, write, m = torch.exp(log_f + m - new), torch.exp(log_i - new), new
        C = keep[..., None] * C + write[..., None] * k[:, :, t, :, None] * v[:, :, t, None, :]
        n = keep * n + write * k[:, :, t]
        query = q[:, :, t] * q.shape[-1] ** -0.5
        norm = torch.maximum((query * n).sum(-1, keepdim=True).abs(), torch.exp(-m)) + 1e-6
        outputs.append(torch.einsum("bhk,bhkv->bhv", query, C) / norm)
    return torch.stack(outputs, 2), MlstmState(C, n, m)


def inputs(tokens: int, size: float = 1.0) -> tuple[list[Tensor], MlstmState]:
    """Random q, k, v, i, f with gates of the given size, and a random memory."""
    torch.manual_seed(tokens)
    shapes = [(B, H, tokens, width) for width in (K, K, V)] + [(B, H, tokens)] * 2
    drawn = [torch.randn(shape, dtype=torch.float64) for shape in (*shapes, (B, H, K, V), (B, H, K), (B, H, 1))]
    drawn[3:5] = [gate * size for gate in drawn[3:5]]
    leaves = [t.requires_grad_() for t in drawn]
    return leaves[:5], MlstmState(*leaves[5:])


def documents(tokens: int) -> Tensor:
    """Starts at random, at position 0, three in a row, and on both sides of every chunk's border."""
    document_starts = torch.rand(B, tokens) < 0.05
    document_starts[0, 0] = True
    document_starts[1, tokens // 2 : tokens // 2 + 3] = True
    length = mlstm_tiles(tokens)[1]
    document_starts[0, length::length] = True
    document_starts[1, length - 1 :: length] = True
    return document_starts


def assert_close(actual: Sequence[Tensor], expected: Sequence[Tensor | None]) -> None:
    for place, (a, b) in enumerate(zip(actual, expected, strict=True)):
        b = torch.zeros_like(a) if b is None else b
        assert (a - b).abs().max() <= ROUNDING * max(1.0, b.abs().max().item()), f"item {place}"


@pytest.mark.parametrize("size", SIZES, ids=SIZES.values())
@pytest.mark.parametrize("tokens", [1, 7, 63, 65, 130])
@pytest.mark.parametrize("packed", [False, True], ids=["one document", "packed"])
def test_chunkwise_is_the_recurrence(tokens: int, size: float, packed: bool) -> None:
    leaves, state = inputs(tokens, size)
    document_starts = documents(tokens) if packed else None
    outputs = []
    for form in (chunkwise_mlstm, recurrence):
        h, after = form(*leaves, state, document_starts)
        slopes = [torch.cos(torch.arange(t.numel(), dtype=t.dtype)).view_as(t) for t in (h, *after)]
        loss = sum((t * slope).sum() for t, slope in zip((h, *after), slopes, strict=True))
        outputs.append((h, *after, *torch.autograd.grad(loss, [*leaves, *state], allow_unused=True)))
    assert_close(*outputs)


def test_a_long_sequence_taken_span_by_span_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves, state = inputs(300)
    document_starts = documents(300)
    whole, parts = [], []
    for outputs, span in ((whole, 2**19), (parts, 1)):
        monkeypatch.setattr(chunkwise_module, "SPAN_ELEMENTS", span)
        h, after = chunkwise_mlstm(*leaves, state, document_starts)
        outputs += [h, *after, *torch.autograd.grad(h.square().sum() + after.C.sum(), leaves)]
    assert_close(parts, whole)


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_gradients_equal_finite_differences(monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    monkeypatch.setattr(chunkwise_module, "MAX_CHUNK", 3)
    leaves, state = inputs(7)
    document_starts = torch.tensor([[0, 1, 0, 0, 1, 0, 0], [0, 0, 0, 1, 1, 0, 0]], dtype=torch.bool) if packed else None

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        h, after = chunkwise_mlstm(*tensors[:5], MlstmState(*tensors[5:]), document_starts)
        return h, *after

    assert torch.autograd.gradcheck(flat, (*leaves, *state), fast_mode=True)  # along random directions


def test_one_product_of_all_projections_gives_what_each_alone_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output and all gradients, in float64, so that only the order of sums differs."""
    layer, x = Mlstm().build(DIMS).double(), torch.randn(2, 70, 32, dtype=torch.float64, requires_grad=True)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    found = []
    for joined in (True, False):
        monkeypatch.setattr(mlstm, "product_type", lambda x, weight, joined=joined: x.dtype if joined else None)
        y = layer(x)[0]
        slope = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y)
        found.append([y, *torch.autograd.grad(y, [x, *layer.parameters()], slope)])
    for ours, right in zip(*found, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-10, atol=1e-12)


def test_the_step_in_place_is_the_recurrence() -> None:
    with torch.no_grad():
        leaves, state = inputs(9)
        h, after = recurrence(*leaves, state)
        own = MlstmState(*(t.clone() for t in state))
        addresses = [t.data_ptr() for t in own]
        steps = []
        for t in range(9):
            q, k, v, i, f = (leaf[:, :, t] for leaf in leaves)
            gates = torch.stack([i, f, torch.zeros_like(i)], 1)[..., None, None]
            h_t = recurrent_mlstm_(q[..., None, :] * q.shape[-1] ** -0.5, k[..., None], v[..., None, :], gates, own)
            steps.append(h_t.squeeze(2))
    assert_close((torch.stack(steps, 2), *own), (h, *after))
    assert [t.data_ptr() for t in own] == addresses, "a captured step needs its memory to stay where it is"


def test_a_state_passed_in_is_not_modified() -> None:
    layer, x = Mlstm().build(DIMS).double(), torch.randn(2, 5, 32, dtype=torch.float64)
    _, state = layer(x)
    before = [t.clone() for t in state]
    layer(x, state)
    assert all(torch.equal(a, b) for a, b in zip(state, before, strict=True))


@pytest.mark.parametrize("tokens", [1, 65])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_low_precision_keeps_its_memory_in_fp32(dtype: torch.dtype, tokens: int) -> None:
    torch.manual_seed(0)
    layer = Mlstm().build(DIMS)
    x = torch.randn(2, tokens, 32)
    exact = layer.double()(x.double())[0]
    layer = layer.to(dtype)
    y, state = layer(x.to(dtype))
    assert y.dtype == dtype and {t.dtype for t in state} == {torch.float32}
    empty = Mlstm().init_state(DIMS, 2, tokens, dtype=dtype)
    assert [(t.shape, t.dtype) for t in empty] == [(t.shape, t.dtype) for t in state]
    # weights, inputs, q, k, v, h and y are rounded once each, the norm of h divides by what is left of it
    assert (y.double() - exact).norm() < 16 * torch.finfo(dtype).eps * exact.norm()


def test_autocast_leaves_gates_and_memory_in_fp32() -> None:
    torch.manual_seed(0)
    layer, x = Mlstm().build(DIMS), torch.randn(2, 70, 32, requires_grad=True)
    exact = layer(x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        y, state = layer(x)
        _, _, _, i, f, _ = layer._project(x)
        y.float().sum().backward()
    assert y.dtype == i.dtype == f.dtype == state.C.dtype == torch.float32
    assert (y - exact).norm() < 16 * torch.finfo(torch.bfloat16).eps * exact.norm()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def test_initial_weights_are_those_of_xlstm_7b() -> None:
    torch.manual_seed(0)
    layer = Mlstm(heads=2).build(Dims(width=256, heads=4, vocab=1, depth=8))
    assert layer.igate.bias.tolist() == [-10, -10] and layer.fgate.bias.tolist() == [3, 6]
    assert not layer.igate.weight.any() and not layer.fgate.weight.any()
    for linear, std in ((layer.q, (2 / (5 * 256)) ** 0.5), (layer.out, 2 / (8 * 16))):
        assert linear.weight.std().item() == pytest.approx(std, rel=0.03)  # of 32768 draws and more: 1 % at 2 sigma


@pytest.mark.parametrize(("width", "heads"), [(32, 3), (32, 32), (33, 1), (30, 4)])
def test_heads_must_divide_half_the_width(width: int, heads: int) -> None:
    dims = Dims(width, 1, 257)
    for ask in (Mlstm(heads=heads).build, lambda d: Mlstm(heads=heads).flops(d, 10)):
        with pytest.raises(ValueError, match=rf"{heads} heads do not divide half the width \({width} / 2\)"):
            ask(dims)


def test_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="mlstm has no window"):
        Mlstm().build(DIMS)(torch.zeros(1, 2, 32), window=4)


def test_builds_and_runs_on_the_meta_device() -> None:
    with torch.device("meta"):
        y, state = Mlstm().build(DIMS)(torch.empty(2, 70, 32))
    assert y.shape == (2, 70, 32) and all(t.is_meta for t in state)


def products(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("value", [8, 16, 30, 64])
@pytest.mark.parametrize("tokens", [1, 64, 70, 200])
def test_hardware_flops_are_the_products_that_run(tokens: int, value: int) -> None:
    """Counted on the code itself, for values just below, at and above a multiple of 16, and heads that differ."""
    heads, dims = 2, Dims(width=2 * value, heads=2, vocab=1)
    q, k, v = (torch.randn(1, heads, tokens, width) for width in (value // 2, value // 2, value))
    i, f = torch.randn(2, 1, heads, tokens)
    linear = Mlstm().flops(dims, tokens) - tokens * 4 * heads * value * value // 2
    assert products(lambda: chunkwise_mlstm(q, k, v, i, f)) == Mlstm().flops(dims, tokens, count="hardware") - linear


def test_flops_of_the_three_counts() -> None:
    dims, tokens, block = Dims(width=64, heads=4, vocab=1), 128, Mlstm()
    linear = products(lambda: [p(torch.zeros(tokens, 64)) for p in linears(block.build(dims))])
    cell = tokens * 4 * 4 * 8 * 16
    gates = 2 * 2 * 64 * 4 * tokens
    assert block.flops(dims, tokens) == linear + cell
    assert block.flops(dims, tokens, count="paper") == linear + cell - gates
    extended = 32  # columns: 16 of the value, one of n, and padding
    tiles = tokens * 4 * (4 * 8 * extended + 2 * 64 * (8 + extended))
    assert block.flops(dims, tokens, count="hardware") == linear + tiles


def linears(layer: torch.nn.Module) -> list[torch.nn.Linear]:
    return [module for module in layer.modules() if isinstance(module, torch.nn.Linear)]


@pytest.mark.parametrize("tokens", [7, 200])
@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_lower_precisions_are_right_to_what_was_summed(kind: str, tokens: int) -> None:
    """The bound of tests/gpu. In bf16 the input gate's bias is off by a tenth of its gradient, the rest of a sum."""
    torch.manual_seed(0)
    layer, x = Mlstm().build(Dims(width=128, heads=4, vocab=1)), torch.randn(2, tokens, 128)
    torch.nn.init.constant_(layer.igate.bias, 0)  # -10 leaves h to eps
    exact, sizes = of_mlstm(layer.double(), x.double())
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
        ours, _ = of_mlstm(layer.float(), x)
    tolerance = {"fp32": 1e-5, "bf16": 0.1}[kind]  # some hundred roundings of 2^-24, a dozen of 2^-8
    for mine, right, size in zip(ours, exact, sizes, strict=True):
        assert (mine - right).norm() < tolerance * size
