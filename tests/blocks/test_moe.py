"""`moe`: against every expert computed on every token, and against published models as transformers computes them."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from hybridkit.block import Dims, padding, recording
from hybridkit.language.parser import parse_pattern
from hybridkit.language.resolve import resolve
from hybridkit.registry.registry import REGISTRY
from hybridkit.testing.layer_under_test import built
from hybridkit_blocks.moe import MixtureOfExperts
from hybridkit_blocks.ops import grouped as grouped_module
from hybridkit_blocks.ops.grouped import grouped_product

DIMS, EXPERTS, WIDTH = Dims(width=16, heads=2, vocab=61), 6, 8
CLOSE = {"rtol": 1e-10, "atol": 1e-10}
TEXTS = [
    "moe(6,2,8)",
    "moe(6,3,8,2,normalize=false,aux=.1)",
    "moe(6,2,8,shared=1,shared_gate=true,bias=true,clip=1.5)",
    "moe(6,2,8,route=sigmoid,factor=2.446,correction=.1,groups=3,active_groups=2)",
    "moe(6,2,8,1,sigmoid,normalize=false,act=relu2,gated=false)",
]


def block(text: str) -> MixtureOfExperts:
    found = resolve(parse_pattern(text)[0], REGISTRY, text).block
    assert isinstance(found, MixtureOfExperts)
    return found


def inputs(tokens: int = 40) -> Tensor:
    return torch.randn(2, tokens, DIMS.width, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def dense(said: MixtureOfExperts, layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """Output, auxiliary loss and loads, with every expert on every token and a weight of 0 for those not chosen."""
    logits = layer.router(x)
    p = logits.softmax(-1) if said.route == "softmax" else logits.sigmoid()
    choice = p.detach() if layer.correction is None else p.detach() + layer.correction
    if said.groups > 1:
        best = choice.unflatten(-1, (said.groups, -1)).sort(-1, descending=True).values[..., :2].sum(-1)
        worst = best.sort(-1, descending=True).values[..., said.active_groups - 1 : said.active_groups]
        kept = (best >= worst).repeat_interleave(said.experts // said.groups, -1)
        choice = choice.masked_fill(~kept, -1)
    least = choice.sort(-1, descending=True).values[..., said.active - 1 : said.active]
    chosen = choice >= least
    weights = p * chosen
    weights = weights / weights.sum(-1, keepdim=True) if said.normalize else weights
    y = torch.zeros_like(x)
    for e in range(said.experts):
        made = F.linear(x, layer.up[e])
        made = made if layer.up_bias is None else made + layer.up_bias.chunk(said.experts)[e]
        out = F.linear(said.hidden(made), layer.down[e])
        out = out if layer.down_bias is None else out + layer.down_bias.chunk(said.experts)[e]
        y = y + said.factor * weights[..., e : e + 1] * out
    if layer.shared is not None:
        y = y + layer.shared(x)[0] * (1 if layer.shared_gate is None else layer.shared_gate(x).sigmoid())
    share = chosen.double().mean((0, 1))
    mean = (p / p.sum(-1, keepdim=True)).mean((0, 1))
    return y, said.aux * said.experts * (share * mean).sum() if said.aux else None, chosen.sum((0, 1))


@pytest.mark.parametrize("text", TEXTS)
def test_outputs_losses_loads_and_gradients(text: str) -> None:
    said, x = block(text), inputs().requires_grad_()
    layer = built(said, DIMS)
    if layer.correction is not None:
        layer.correction.copy_(torch.linspace(-0.3, 0.3, EXPERTS))
    leaves = [x, *layer.parameters()]
    with recording() as told:
        y = layer(x)[0]
    right, loss, load = dense(said, layer, x)
    torch.testing.assert_close(y, right, **CLOSE)
    assert [one.layer for one in told] == [layer] and torch.equal(told[0].load, load)
    slope = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    ours, exact = (y * slope).sum(), (right * slope).sum()
    if loss is not None:
        torch.testing.assert_close(told[0].loss, loss, **CLOSE)
        ours, exact = ours + told[0].loss, exact + loss
    pairs = zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(exact, leaves), strict=True)
    for mine, wanted in pairs:
        torch.testing.assert_close(mine, wanted, **CLOSE)


def test_costs_are_those_of_the_experts_that_run() -> None:
    said = block("moe(6,2,8,shared=1,shared_gate=true)")
    one = 3 * DIMS.width * WIDTH
    assert said.flops(DIMS, 5) == 2 * 5 * (DIMS.width * (6 + 1) + 3 * one)
    assert said.idle_parameters(DIMS) == 4 * one
    assert said.idle_parameters(DIMS, 3) == round(6 * one * (4 / 6) ** 3)


def test_hardware_counts_what_the_shared_network_is_filled_with() -> None:
    said, x, counted = block("moe(6,2,125,shared=1)"), torch.randn(1, 5, DIMS.width), list[int]()
    layer = built(said, DIMS).float()
    for on in (True, False):
        with padding(on), FlopCounterMode(display=False) as counter, torch.no_grad():
            layer(x)
        counted.append(counter.get_total_flops())
    assert said.flops(DIMS, 5, count="hardware") - said.flops(DIMS, 5) == counted[0] - counted[1] > 0


def test_losses_without_a_listener_or_a_gradient_are_told_to_nobody() -> None:
    layer, x = built(block("moe(6,2,8)"), DIMS), inputs()
    layer(x)
    with recording() as outer, recording() as told, torch.no_grad():
        layer(x)
    assert told == [] and outer == []


def test_a_correction_moves_against_the_loads() -> None:
    layer = built(block("moe(6,2,8,correction=.25)"), DIMS)
    layer.balance(torch.tensor([1.0, 3.0, 2.0, 2.0, 0.0, 4.0]))
    assert layer.correction.tolist() == [0.25, -0.25, 0, 0, 0.25, -0.25] and "correction" in layer.state_dict()
    assert "correction" not in built(block("moe(6,2,8)"), DIMS).state_dict()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("moe(4,5,8)", "5 active experts are more than the 4"),
        ("moe(6,2,8,groups=4)", "groups should divide them"),
        ("moe(6,3,8,groups=3)", "3 active experts are more than the 2"),
        ("moe(6,2,8,shared_gate=true)", "needs a shared expert"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        block(text)


def test_the_kernel_of_cuda_gives_the_same_products() -> None:
    """torch's grouped product, in the call that CUDA gets; on a CPU it runs in fp32."""
    draw = torch.Generator().manual_seed(0)
    x, weight = torch.randn(20, 16, generator=draw), torch.randn(4, 8, 16, generator=draw)
    counts = torch.tensor([5, 0, 12, 3])
    theirs = F.grouped_mm(x, weight.mT, offs=counts.cumsum(0, dtype=torch.int32))
    torch.testing.assert_close(grouped_product(x, weight, counts), theirs)


def test_gradients_of_products_by_finite_differences() -> None:
    x, weight = torch.randn(7, 3, dtype=torch.float64), torch.randn(4, 2, 3, dtype=torch.float64)
    counts, order = torch.tensor([2, 0, 5, 0]), torch.randperm(8)
    assert torch.autograd.gradcheck(
        lambda *a: grouped_product(*a, counts), (x.requires_grad_(), weight.requires_grad_())
    )
    rows = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: grouped_module.permute_rows(a, order, 2), (rows,))
    assert torch.equal(
        grouped_module.unpermute_rows(grouped_module.permute_rows(rows, order, 2), order), rows.repeat_interleave(2, 0)
    )


class Case(NamedTuple):
    """A model's mixture, what its config says beside what all have, our block, and its weights of theirs."""

    model: str
    prefix: str
    module: str
    settings: dict[str, Any]
    text: str
    weights: Callable[[dict[str, Tensor]], dict[str, Tensor]]


def stacked(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Qwen, DeepSeek and Kimi: gate and up stand in one matrix an expert, as here."""
    names = {
        "gate.weight": "router.weight",
        "gate.e_score_correction_bias": "correction",
        "experts.gate_up_proj": "up",
        "experts.down_proj": "down",
        "shared_expert_gate.weight": "shared_gate.weight",
        **{
            f"{shared}.{part}_proj.weight": f"shared.{part}.weight"
            for shared in ("shared_expert", "shared_experts")
            for part in ("gate", "up", "down")
        },
    }
    return {names[name]: tensor for name, tensor in theirs.items()}


def interleaved(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """gpt-oss: columns of gate and up in turn, and matrices that multiply from the right."""
    up, bias = theirs["experts.gate_up_proj"].mT, theirs["experts.gate_up_proj_bias"]
    return {
        "router.weight": theirs["router.weight"],
        "router.bias": theirs["router.bias"],
        "up": torch.cat([up[:, ::2], up[:, 1::2]], 1),
        "up_bias": torch.cat([bias[:, ::2], bias[:, 1::2]], 1).flatten(),
        "down": theirs["experts.down_proj"].mT,
        "down_bias": theirs["experts.down_proj_bias"].flatten(),
    }


CASES = [
    Case("qwen3_moe", "Qwen3Moe", "Qwen3MoeSparseMoeBlock", {"norm_topk_prob": True}, "moe(6,2,8)", stacked),
    Case(
        "qwen3_next",
        "Qwen3Next",
        "Qwen3NextSparseMoeBlock",
        {"shared_expert_intermediate_size": WIDTH},
        "moe(6,2,8,shared=1,shared_gate=true)",
        stacked,
    ),
    Case(
        "deepseek_v3",
        "DeepseekV3",
        "DeepseekV3MoE",
        {"n_group": 3, "topk_group": 2, "routed_scaling_factor": 2.5},
        "moe(6,2,8,shared=1,route=sigmoid,factor=2.5,correction=.001,groups=3,active_groups=2)",
        stacked,
    ),
    Case(
        "kimi_linear",
        "KimiLinear",
        "KimiLinearMoE",
        {},
        "moe(6,2,8,shared=1,route=sigmoid,factor=2.446,correction=.001)",
        stacked,
    ),
    Case("gpt_oss", "GptOss", "GptOssMLP", {"swiglu_limit": 2.0}, "moe(6,2,8,bias=true,clip=2)", interleaved),
]
SHARED = {
    "hidden_size": DIMS.width,
    "num_experts": EXPERTS,
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 1,
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.model)
def test_published_mixtures(case: Case) -> None:
    """Output and gradients; 1e-6 of the largest value, since some route in fp32 whatever the type."""
    transformers = pytest.importorskip("transformers", reason="parity needs the hf extra")
    torch.manual_seed(0)
    config = getattr(transformers, f"{case.prefix}Config")(**SHARED, **case.settings)
    config._experts_implementation = "eager"
    theirs = getattr(import_module(f"transformers.models.{case.model}.modeling_{case.model}"), case.module)(config)
    theirs.double()
    for tensor in (*theirs.parameters(), *theirs.buffers()):
        nn.init.normal_(tensor, std=0.5)
    named = {**dict(theirs.named_parameters()), **dict(theirs.named_buffers())}
    layer, x = block(case.text).build(DIMS).double(), inputs()
    layer.load_state_dict({name: tensor.detach() for name, tensor in case.weights(named).items()})
    ours, right = layer(x)[0], theirs(x)
    right = (right[0] if isinstance(right, tuple) else right).view_as(x)
    close(ours, right)
    slope, weights = torch.randn_like(x), dict(theirs.named_parameters())
    exact = torch.autograd.grad(right, list(weights.values()), slope)
    expected = case.weights(dict(zip(weights, exact, strict=True)))
    own = dict(layer.named_parameters())
    for name, grad in zip(own, torch.autograd.grad(ours, list(own.values()), slope), strict=True):
        close(grad, expected[name])


def close(ours: Tensor, right: Tensor) -> None:
    assert (ours - right).abs().max() <= 1e-6 * right.abs().max()
