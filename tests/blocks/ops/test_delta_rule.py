"""The gated delta rule: the chunkwise form against the recurrence written out, in float64; its parts; its counts."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hybridkit_blocks.ops import delta_rule
from hybridkit_blocks.ops.delta_pairs import BASE, ChannelPairs, HeadPairs
from hybridkit_blocks.ops.delta_rule import chunk_length, chunk_products, chunkwise_delta, recurrent_delta_
from hybridkit_blocks.ops.delta_span import unit_inverse

B, H, J, K, V = 2, 4, 2, 5, 6
ROUNDING = 1e-11  # of sums of some hundred terms, relative to the largest result: some 1e4 x 2^-53
DECAYS = {1: "one decay a head", K: "one decay a channel"}
PAIRS = {1: HeadPairs, K: ChannelPairs}


def recurrence(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor, S: Tensor, document_starts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The rule, token by token; every operation differentiable by autograd."""
    q, k = (t / (t.square().sum(-1, keepdim=True) + 1e-6).sqrt() for t in (q, k))
    q, k = (t.repeat_interleave(H // J, 2) for t in (q * K**-0.5, k))
    outputs = []
    for t in range(v.shape[1]):
        if document_starts is not None:
            S = S * ~document_starts[:, t, None, None, None]
        S = g[:, t].exp()[..., None] * S
        u = beta[:, t, :, None] * (v[:, t] - torch.einsum("bhkv,bhk->bhv", S, k[:, t]))
        S = S + k[:, t, :, :, None] * u[:, :, None]
        outputs.append(torch.einsum("bhkv,bhk->bhv", S, q[:, t]))
    return torch.stack(outputs, 1), S


def inputs(tokens: int, decays: int, size: float = 1.0) -> list[Tensor]:
    """Random q, k, v, beta up to 2, log decays of which some are of the given size, and a random state."""
    torch.manual_seed(tokens)
    shapes = (
        (B, tokens, J, K),
        (B, tokens, J, K),
        (B, tokens, H, V),
        (B, tokens, H),
        (B, tokens, H, decays),
        (B, H, K, V),
    )
    q, k, v, beta, g, S = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    return [t.requires_grad_() for t in (q, k, v, 2 * beta.sigmoid(), -size * (2 * g - 2).exp(), S)]


def documents(tokens: int) -> Tensor:
    """Starts at random, at position 0, three in a row, and on both sides of every chunk's border."""
    document_starts = torch.rand(B, tokens, generator=torch.Generator().manual_seed(0)) < 0.05
    document_starts[0, 0] = True
    document_starts[1, tokens // 2 : tokens // 2 + 3] = True
    length = chunk_length(tokens)
    document_starts[0, length::length] = True
    document_starts[1, length - 1 :: length] = True
    return document_starts


def assert_close(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for place, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert (a - b).abs().max() <= ROUNDING * max(1.0, b.abs().max().item()), f"item {place}"


@pytest.mark.parametrize("packed", [False, True], ids=["one document", "packed"])
@pytest.mark.parametrize("size", [1, 300], ids=["weak decay", "strong decay"])
@pytest.mark.parametrize("tokens", [1, 7, 33, 130])
@pytest.mark.parametrize("decays", DECAYS, ids=DECAYS.values())
def test_chunkwise_is_the_recurrence(decays: int, tokens: int, size: float, packed: bool) -> None:
    leaves, outputs = inputs(tokens, decays, size), []
    document_starts = documents(tokens) if packed else None
    for form in (chunkwise_delta, recurrence):
        o, after = form(*leaves, document_starts)
        slopes = [torch.cos(torch.arange(t.numel(), dtype=t.dtype)).view_as(t) for t in (o, after)]
        loss = (o * slopes[0]).sum() + (after * slopes[1]).sum()
        outputs.append((o, after, *torch.autograd.grad(loss, leaves)))
    assert_close(*outputs)


@pytest.mark.parametrize("decays", DECAYS, ids=DECAYS.values())
def test_a_long_sequence_taken_span_by_span_is_the_same(decays: int, monkeypatch: pytest.MonkeyPatch) -> None:
    leaves, whole, parts = inputs(150, decays), [], []
    monkeypatch.setattr(delta_rule, "MAX_CHUNK", 16)
    for outputs, span in ((whole, 2**20), (parts, 1)):
        monkeypatch.setattr(delta_rule, "SPAN_ELEMENTS", span)
        o, after = chunkwise_delta(*leaves, documents(150))
        outputs += [o, after, *torch.autograd.grad(o.square().sum() + after.sum(), leaves)]
    assert_close(parts, whole)


@torch.no_grad()
@pytest.mark.parametrize("decays", DECAYS, ids=DECAYS.values())
def test_the_step_in_place_is_the_recurrence(decays: int) -> None:
    q, k, v, beta, g, S = (t.detach() for t in inputs(9, decays))
    o, after = recurrence(q, k, v, beta, g, S)
    own = S.clone()
    q, k = (delta_rule.normalised(t).repeat_interleave(H // J, 2) for t in (q, k))
    steps = []
    for t in range(9):
        rows = q[:, t] * K**-0.5, k[:, t], v[:, t]
        flat = [row.reshape(B * H, 1, -1) for row in rows]
        step = recurrent_delta_(
            *flat, beta[:, t].reshape(-1, 1, 1), g[:, t].exp().reshape(B * H, -1, 1), own.flatten(0, 1)
        )
        steps.append(step.view(B, H, V))
    assert_close((torch.stack(steps, 1), own), (o, after))


@pytest.mark.parametrize("length", [16, 32, 64])
def test_the_inverse_of_a_unit_triangle(length: int) -> None:
    torch.manual_seed(0)
    below = torch.randn(3, length, length, dtype=torch.float64)
    whole = torch.eye(length, dtype=torch.float64) + below.tril(-1)
    inverse = unit_inverse(below)
    residual = inverse @ whole - torch.eye(length)
    assert residual.abs().max() <= ROUNDING * inverse.abs().max()


@pytest.mark.parametrize("decays", DECAYS, ids=DECAYS.values())
def test_pairs_are_sums_over_channels_however_strong_the_decay(decays: int) -> None:
    """In fp32, where exp(-b) would overflow: equal to float64, and finite."""
    torch.manual_seed(0)
    q, k, g = torch.randn(3, 2, 64, K).unbind()
    b = (-50 * g[..., :decays].square()).cumsum(1)
    own = PAIRS[decays](b, None).products(q, k)
    exact = (b.double()[:, :, None] - b.double()[:, None]).clamp(max=0).exp()
    for found, rows, kept in zip(own, (k, q), (-1, 0), strict=True):
        right = (rows.double()[:, :, None] * k.double()[:, None] * exact).sum(-1).tril(kept)
        assert (found.double().tril(kept) - right).abs().max() <= 1e-5 * right.abs().max()


@pytest.mark.parametrize("decays", DECAYS, ids=DECAYS.values())
@pytest.mark.parametrize("tokens", [7, 64, 150])
def test_hardware_counts_are_the_products_that_run(tokens: int, decays: int) -> None:
    """torch's counter sees neither the solved blocks nor what is summed lag by lag."""
    leaves = [t.detach() for t in inputs(tokens, decays)]
    with FlopCounterMode(display=False) as counter:
        chunkwise_delta(*leaves)
    chunks, length = -(-tokens // chunk_length(tokens)), chunk_length(tokens)
    unseen = length * (2 * BASE) ** 2 // 2 + (length * K * (BASE + 1) if decays > 1 else 0)
    said = B * chunk_products(H, K, V, tokens, PAIRS[decays].count)
    assert counter.get_total_flops() == 2 * (said - B * chunks * H * unseen)


@pytest.mark.parametrize("decays", DECAYS, ids=DECAYS.values())
def test_what_training_keeps_grows_with_the_tokens(decays: int) -> None:
    """Memory is linear in T: four times the tokens, and a state more for every span."""
    kept = []
    for tokens in (256, 1024):
        found: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, into=found: into.append(t), lambda _: None):
            chunkwise_delta(*inputs(tokens, decays))
        kept.append(sum(t.numel() for t in found))
    assert kept[1] <= 4.01 * kept[0]
