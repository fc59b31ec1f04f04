"""Gated DeltaNet and Kimi Delta Attention against transformers' layers on the same random weights.

Their chunkwise rule runs in fp32 whatever the model's type, so a tolerance below fp32 rounding would measure them; ours
is held to the recurrence written out in float64 in ops/test_delta_rule.py.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from hybridkit.block import Block, Dims, Layer
from hybridkit_blocks.gdn import Gdn
from hybridkit_blocks.kda import Kda

transformers = pytest.importorskip("transformers")

WIDTH, HEADS, KEYS, K, V = 32, 4, 2, 6, 5
DIMS = Dims(width=WIDTH, heads=HEADS, vocab=61)
# Relative to the norm: twice to four times what either is from ours in float64. Rates of decay sum over all tokens, in
# terms that nearly cancel; q and k are divided by their length, which may be small.
ROUNDING = {"output": 5e-6, "A_log": 2e-4, "dt_bias": 2e-4}
OTHER_GRADIENTS = 5e-5
Weights = dict[str, Tensor]


class Case(NamedTuple):
    """A layer of ours; the name of theirs, its module and configuration; and our weights, made of theirs."""

    block: Block
    module: str
    layer: str
    config: str
    given: dict[str, object]
    weights: Callable[[Weights], Weights]


def qwen_next(theirs: Weights) -> Weights:
    """q, k, v and gate, and b and a, lie together for each key head."""
    group = HEADS // KEYS
    q, k, v, z = theirs["in_proj_qkvz.weight"].unflatten(0, (KEYS, -1)).split([K, K, group * V, group * V], 1)
    b, a = theirs["in_proj_ba.weight"].unflatten(0, (KEYS, -1)).chunk(2, 1)
    linear = {"q": q, "k": k, "v": v, "gate": z, "b": b, "a": a}
    return {f"{name}.weight": t.flatten(0, 1) for name, t in linear.items()} | shared(theirs, "norm", "out_proj")


def qwen(theirs: Weights) -> Weights:
    q, k, v = theirs["in_proj_qkv.weight"].split([KEYS * K, KEYS * K, HEADS * V])
    linear = {"q": q, "k": k, "v": v, **{name: theirs[f"in_proj_{other}.weight"] for name, other in BY_LETTER.items()}}
    return {f"{name}.weight": t for name, t in linear.items()} | shared(theirs, "norm", "out_proj")


def olmo(theirs: Weights) -> Weights:
    names = {**{name: name for name in "qkvab"}, "gate": "g"}
    linear = {f"{name}.weight": theirs[f"{other}_proj.weight"] for name, other in names.items()}
    return linear | shared(theirs, "o_norm", "o_proj")


def kimi(theirs: Weights) -> Weights:
    return _kda(theirs, {"f_a": "forget_gate.f_a", "f_b": "forget_gate.f_b", "g_a": "g_a", "g_b": "g_b"})


def bailing(theirs: Weights) -> Weights:
    return _kda(theirs, {"f_b": "forget_gate.f", "g_b": "g"})


BY_LETTER = {"gate": "z", "b": "b", "a": "a"}


def _kda(theirs: Weights, gates: dict[str, str]) -> Weights:
    names = {**{name: name for name in "qkvb"}, **gates}
    linear = {f"{name}.weight": theirs[f"{other}_proj.weight"] for name, other in names.items()}
    own = {name: theirs[f"forget_gate.{name}"].flatten() for name in ("A_log", "dt_bias")}
    return linear | shared({**theirs, **own}, "o_norm", "o_proj")


def shared(theirs: Weights, norm: str, out: str) -> Weights:
    """What has one form everywhere."""
    names = {"A_log": "A_log", "dt_bias": "dt_bias", "norm": f"{norm}.weight", "out.weight": f"{out}.weight"}
    return {name: theirs[other] for name, other in names.items()} | {"conv.weight": theirs["conv1d.weight"][:, 0]}


GDN_SIZES: dict[str, object] = {
    "linear_num_value_heads": HEADS,
    "linear_num_key_heads": KEYS,
    "linear_key_head_dim": K,
    "linear_value_head_dim": V,
}
KDA_SIZES: dict[str, object] = {"linear_num_heads": HEADS, "linear_head_dim": K}
GDN = {"key_heads": KEYS, "head": K, "value": V}
CASES = [
    Case(Gdn(**GDN, norm_eps=1e-6), "qwen3_next", "Qwen3NextGatedDeltaNet", "Qwen3NextConfig", GDN_SIZES, qwen_next),
    Case(Gdn(**GDN, norm_eps=1e-6), "qwen3_5", "Qwen3_5GatedDeltaNet", "Qwen3_5TextConfig", GDN_SIZES, qwen),
    Case(
        Gdn(**GDN, allow_neg_eigval=True), "olmo_hybrid", "OlmoHybridGatedDeltaNet", "OlmoHybridConfig", GDN_SIZES, olmo
    ),
    Case(Kda(head=K), "kimi_linear", "KimiLinearDeltaAttention", "KimiLinearConfig", KDA_SIZES, kimi),
    Case(
        Kda(head=K, lower_bound=-5.0, low_rank=False, norm_eps=1e-6),
        "bailing_hybrid",
        "BailingHybridDeltaAttention",
        "BailingHybridConfig",
        KDA_SIZES,
        bailing,
    ),
]


def pair(case: Case, dtype: torch.dtype) -> tuple[Layer, nn.Module, object]:
    """Ours and theirs, with the same random weights."""
    import importlib

    config = getattr(transformers, case.config)(
        hidden_size=WIDTH, num_hidden_layers=2, layer_types=["linear_attention", "full_attention"], **case.given
    )
    modeling = importlib.import_module(f"transformers.models.{case.module}.modeling_{case.module}")
    torch.manual_seed(0)
    theirs = getattr(modeling, case.layer)(config, 0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.5 if parameter.dim() == 1 else 0.3)
    ours = case.block.build(DIMS)
    ours.load_state_dict(case.weights(dict(theirs.named_parameters())))
    return ours.to(dtype), theirs.to(dtype), config


def assert_close(ours: Tensor, right: Tensor, name: str) -> None:
    assert (ours - right).norm() <= ROUNDING.get(name, OTHER_GRADIENTS) * right.norm(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.module)
def test_outputs_and_every_gradient(case: Case, dtype: torch.dtype) -> None:
    ours, theirs, _ = pair(case, dtype)
    x, slope = torch.randn(2, 2, 70, WIDTH, dtype=dtype)
    x.requires_grad_()
    found = []
    for y, layer in ((ours(x)[0], ours), (theirs(x), theirs)):
        names, weights = zip(*layer.named_parameters(), strict=True)
        dx, *grads = torch.autograd.grad(y, [x, *weights], slope)
        found.append((y, dx, dict(zip(names, grads, strict=True))))
    (y, dx, mine), (right, right_dx, right_grads) = found
    assert_close(y, right, "output")
    assert_close(dx, right_dx, "gradient of x")
    for name, grad in case.weights(right_grads).items():
        assert_close(mine[name], grad, name)


@torch.no_grad()
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.module)
def test_cached_decoding(case: Case) -> None:
    ours, theirs, config = pair(case, torch.float32)
    x, cache = torch.randn(2, 9, WIDTH), transformers.DynamicCache(config=config)
    right = [theirs(x[:, :5], cache_params=cache)]
    y, state = ours(x[:, :5])
    mine = [y]
    for t in range(5, 9):
        right.append(theirs(x[:, t : t + 1], cache_params=cache))
        y, state = ours.step(x[:, t : t + 1], state)
        mine.append(y)
    assert_close(torch.cat(mine, 1), torch.cat(right, 1), "output")
