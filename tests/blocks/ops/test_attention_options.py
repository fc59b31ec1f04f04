"""Every option of `sa` and `swa`, alone and together, in every path, against one plain attention in float64.

The reference writes masks out and takes whole softmaxes; 1e-10 leaves three digits over rounding.
"""

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hybridkit.block import Dims, clone_state, window_limit, window_of
from hybridkit.language.parser import parse_pattern
from hybridkit.language.resolve import resolve
from hybridkit.registry.registry import REGISTRY
from hybridkit.testing.layer_under_test import built
from hybridkit_blocks.ops.attention import AttentionBlock
from hybridkit_blocks.ops.cpu.banded import banded
from hybridkit_blocks.ops.cuda import flex
from hybridkit_blocks.ops.rope import Rope, Stretch
from hybridkit_blocks.ops.scores import Scores

DIMS = Dims(width=16, heads=4, vocab=257)
CLOSE = {"rtol": 1e-10, "atol": 1e-10}
TOKENS = 70
TEXTS = [
    "sa(gate=true)",
    "sa(sinks=true,kv_heads=2)",
    "sa(softcap=.7,scale=1.5)",
    "sa(bias=true,gate=true,head=6)",
    "sa(bias=qkv,scale=.9)",
    "sa(qk_norm=projection,kv_heads=2,rope=.5,head=8)",
    "swa(rope=.5,head=8,qk_norm=true,gate=true,kv_heads=2):9",
    "swa(sinks=true,scaling=yarn,factor=8,original=32,truncate=false,kv_heads=1,bias=true):7",
    "swa(softcap=.5,sinks=true,kv_heads=2,scaling=linear,factor=4):40",
    "sa(scaling=llama3,factor=8,original=64,head=8,softcap=1,sinks=true,gate=true,qk_norm=projection,bias=true,"
    "kv_heads=2,rope=.75,scale=.4)",
]


def block(text: str) -> AttentionBlock:
    found = resolve(parse_pattern(text)[0], REGISTRY, text).block
    assert isinstance(found, AttentionBlock)
    return found


def turned(x: Tensor, rope: Rope | None) -> Tensor:
    """x (B, T, H, E) rotated, channel by channel."""
    if rope is None:
        return x
    half = rope.size // 2
    angles = torch.arange(x.shape[1], dtype=torch.float64)[:, None, None] * rope.speeds()
    a, b, rest = x.split((half, half, x.shape[-1] - 2 * half), -1)
    cos, sin = angles.cos() * rope.magnitude, angles.sin() * rope.magnitude
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def plain(said: AttentionBlock, layer: nn.Module, x: Tensor, window: int | None, starts: Tensor | None) -> Tensor:
    """The layer as its formulas read."""
    heads, tokens = said.shape(DIMS), x.shape[1]
    named = dict(layer.named_parameters())
    q, k, v, *gate = (F.linear(x, named[f"{n}.weight"], named.get(f"{n}.bias")) for n in names(said))
    if said.qk_norm == "projection":
        q, k = (rms(t, named[f"{n}_norm.weight"], DIMS.norm_eps) for n, t in (("q", q), ("k", k)))
    q, k, v = (t.unflatten(2, (-1, heads.size)) for t in (q, k, v))
    if said.qk_norm is True:
        q, k = (rms(t, named[f"{n}_norm.weight"], DIMS.norm_eps) for n, t in (("q", q), ("k", k)))
    rope = said.rope_of(said.turning(heads.size), said.theta)
    q, k, v = turned(q, rope), *(t.repeat_interleave(heads.q // heads.kv, 2) for t in (turned(k, rope), v))
    s = torch.einsum("bthe,bshe->bhts", q, k) * (said.scale or heads.size**-0.5)
    s = said.softcap * torch.tanh(s / said.softcap) if said.softcap else s
    age = torch.arange(tokens)[:, None] - torch.arange(tokens)
    seen = ((age >= 0) & (age < (window or tokens)))[None]
    if starts is not None:
        documents = starts.cumsum(1)
        seen = seen & (documents[:, :, None] == documents[:, None])
    s = s.masked_fill(~seen[:, None], -math.inf)
    if said.sinks:
        s = torch.cat([s, named["sinks"].view(1, -1, 1, 1).expand(*s.shape[:3], 1)], -1)
    y = torch.einsum("bhts,bshe->bthe", s.softmax(-1)[..., :tokens], v).flatten(2)
    y = y * torch.sigmoid(gate[0]) if gate else y
    return F.linear(y, named["out.weight"], named.get("out.bias"))


def names(said: AttentionBlock) -> list[str]:
    return ["q", "k", "v", *(["gate"] if said.gate else [])]


def inputs(requires_grad: bool = False) -> Tensor:
    x = torch.randn(2, TOKENS, DIMS.width, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    return x.requires_grad_(requires_grad)


def starts() -> Tensor:
    return torch.rand(2, TOKENS, generator=torch.Generator().manual_seed(5)) < 0.07


@pytest.mark.parametrize("marked", [False, True], ids=["one document", "packed"])
@pytest.mark.parametrize("text", TEXTS)
def test_training_and_its_gradients(text: str, marked: bool) -> None:
    said = block(text)
    layer, x, marks = built(said, DIMS), inputs(True), starts() if marked else None
    leaves = [x, *layer.parameters()]
    ours, right = layer(x, document_starts=marks)[0], plain(said, layer, x, window_limit(window_of(said)), marks)
    torch.testing.assert_close(ours, right, **CLOSE)
    slope = torch.randn(right.shape, dtype=right.dtype, generator=torch.Generator().manual_seed(6))
    pairs = zip(torch.autograd.grad(ours, leaves, slope), torch.autograd.grad(right, leaves, slope), strict=True)
    for mine, exact in pairs:
        torch.testing.assert_close(mine, exact, **CLOSE)


@pytest.mark.parametrize("text", TEXTS)
@torch.no_grad()
def test_carried_states_steps_and_the_decoder(text: str) -> None:
    said = block(text)
    layer, x, marks, cut = built(said, DIMS), inputs(), starts(), 41
    marks[:, 50:] = False  # a step begins no document
    norm = nn.RMSNorm(DIMS.width, eps=1e-6, dtype=x.dtype)
    right = plain(said, layer, x, window_limit(window_of(said)), marks)
    head, state = layer(x[:, :cut], document_starts=marks[:, :cut])
    rest, state = layer(x[:, cut:50], state, document_starts=marks[:, cut:50])
    torch.testing.assert_close(torch.cat([head, rest], 1), right[:, :50], **CLOSE)
    for room in (TOKENS, 2 * TOKENS):
        held = layer.reserve(layer.reserve(clone_state(state), room), room)
        for t in range(50, TOKENS):
            y, held = layer.step(x[:, t : t + 1], held)
            torch.testing.assert_close(y[:, 0], right[:, t], **CLOSE)
    normed = plain(said, layer, norm(x), window_limit(window_of(said)), None) + x
    held, run = layer.reserve(said.init_state(DIMS, 2, 0, dtype=x.dtype), TOKENS), layer.decoder(norm, rows=2)
    for t in range(TOKENS):
        y, held = run(x[:, t : t + 1], held)
        torch.testing.assert_close(y[:, 0], normed[:, t], **CLOSE)


@pytest.mark.parametrize(
    "scores",
    [
        Scores(cap=0.8),
        Scores(0.3, None, torch.tensor([-1.0, 0.0, 0.5, 2.0])),
        Scores(2.0, 1.5, torch.tensor([-1.0, 0.0, 0.5, 2.0])),
    ],
    ids=["cap", "sinks", "all"],
)
def test_flex_attention_agrees(scores: Scores) -> None:
    """The CUDA path in eager mode, which on a CPU has no gradient: mask, cap, and sinks by the log-sum-exp."""
    draw = torch.Generator().manual_seed(7)
    q, k, v = (torch.randn(2, n, h, 8, dtype=torch.float64, generator=draw) for n, h in ((30, 4), (40, 2), (40, 2)))
    documents = (torch.rand(2, 40, generator=draw) < 0.1).cumsum(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch advises to compile it
        made = flex.flex(q, k, v, 12, documents, *scores)
    torch.testing.assert_close(made, banded(q, k, v, 12, documents, *scores), **CLOSE)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch.compile causes warnings by itself
@pytest.mark.parametrize("text", TEXTS)
@torch.no_grad()
def test_a_layer_compiles_as_one_graph(text: str) -> None:
    """The compiled form of a rotation is not the eager one, and once took no share of a head."""
    torch._dynamo.reset()
    layer, x = built(block(text), DIMS), inputs()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x)[0], layer(x)[0], **CLOSE)


@pytest.mark.parametrize("text", TEXTS)
def test_it_prints_as_it_was_written(text: str) -> None:
    again = block(str(block(text)))
    assert again == block(text) and str(again) == str(block(text))


def test_a_norm_of_each_head_has_two_names() -> None:
    assert block("sa(qk_norm=head)") == block("sa(qk_norm=true)")


def test_options_at_their_defaults_are_not_printed_and_build_nothing() -> None:
    said = "sa(bias=false,gate=false,sinks=false,rope=1,softcap=null,scale=null,scaling=null,qk_norm=false)"
    assert str(block(said)) == "sa"
    assert {name for name, _ in block("sa").build(DIMS).named_parameters()} == {
        f"{name}.weight" for name in ("q", "k", "v", "out")
    }


def test_the_gate_is_one_more_projection_and_nothing_else_costs() -> None:
    known = block("sa(kv_heads=2)").flops(DIMS, 50)
    assert block("sa(kv_heads=2,gate=true)").flops(DIMS, 50) - known == 2 * 50 * DIMS.width * DIMS.width
    assert block("sa(kv_heads=2,sinks=true,softcap=3,scale=.1,bias=true,rope=.5)").flops(DIMS, 50) == known


def test_yarn_keeps_fast_pairs_and_slows_the_others() -> None:
    """The ends of the ramp for gpt-oss's numbers, worked out by hand: pairs 8.09 and 17.4 of 32."""
    stretch = Stretch("yarn", 32.0, 4096, 32.0, 1.0, truncate=False, magnitude=1 + math.log(32) / 10)
    plain_speeds, slowed = Rope(64, 150000.0).speeds(), Rope(64, 150000.0, stretch).speeds()
    ratio = plain_speeds / slowed
    assert torch.equal(ratio[:9], torch.ones(9, dtype=torch.float64)) and ratio[9] > 1
    torch.testing.assert_close(ratio[18:], torch.full((14,), 32.0, dtype=torch.float64))
    assert (ratio.diff() >= -1e-9).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"factor": 8.0}, "factor needs scaling"),
        ({"scaling": "linear"}, "needs a factor above 1"),
        ({"scaling": "linear", "factor": 8.0, "original": 4096}, "takes no original"),
        ({"scaling": "yarn", "factor": 8.0}, "needs the length of the training before"),
        ({"scaling": "llama3", "factor": 8.0, "original": 64, "slow": 5.0}, "slow=5 is not below fast, which is 4"),
        ({"scaling": "linear", "factor": 8.0, "theta": None}, "needs a theta above 1"),
    ],
)
def test_stretched_positions_that_do_not_fit_together_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        type(block("sa"))(**arguments)


def test_a_share_that_turns_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="turns no pair of channels"):
        block("sa(rope=.25)").build(DIMS)
