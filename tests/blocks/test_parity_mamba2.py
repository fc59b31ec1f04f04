"""Mamba-2 against transformers' mixers of five models on the same weights: outputs, gradients, cached decoding.

Their scan runs in fp32 whatever the model's type is, so that in float64 they are right to about 1e-7; ours is held to
float64 itself in test_mamba2.py.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hybridkit.block import Dims, Layer
from hybridkit_blocks.mamba2 import Mamba2

transformers = pytest.importorskip("transformers")

WIDTH, TOKENS, PROMPT = 24, 70, 61
DIMS = Dims(width=WIDTH, heads=4, vocab=257)
# Relative, of norms. fp32: gradients of A_log are rests of sums of a chunk's 64 tokens. float64: their fp32 inside.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-6}
NAMES = {"conv.weight": "conv1d.weight", "conv.bias": "conv1d.bias"}


def mamba2() -> tuple[Mamba2, Any, type[nn.Module]]:
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    sizes = {"hidden_size": WIDTH, "num_heads": 6, "head_dim": 8, "state_size": 5, "n_groups": 2, "chunk_size": 16}
    return Mamba2(heads=6, state=5, groups=2), transformers.Mamba2Config(**sizes, num_hidden_layers=1), Mamba2Mixer


def nemotron_h() -> tuple[Mamba2, Any, type[nn.Module]]:
    """The inner width is heads * head, whatever `expand` says; dt has a lower limit; projections have biases."""
    from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHMamba2Mixer

    config = transformers.NemotronHConfig(
        hidden_size=WIDTH,
        mamba_num_heads=4,
        mamba_head_dim=5,
        ssm_state_size=6,
        n_groups=2,
        chunk_size=16,
        use_bias=True,
        layers_block_type=["mamba"],
    )
    return Mamba2(heads=4, head=5, state=6, groups=2, bias=True, dt_min=1e-3), config, NemotronHMamba2Mixer


def granite() -> tuple[Mamba2, Any, type[nn.Module]]:
    from transformers.models.granitemoehybrid.modeling_granitemoehybrid import GraniteMoeHybridMambaLayer

    config = transformers.GraniteMoeHybridConfig(
        hidden_size=WIDTH,
        mamba_n_heads=4,
        mamba_d_state=6,
        mamba_n_groups=1,
        mamba_chunk_size=16,
        mamba_conv_bias=False,
        rms_norm_eps=1e-5,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
    )
    return Mamba2(heads=4, state=6, conv_bias=False), config, GraniteMoeHybridMambaLayer


def falcon_h1() -> tuple[Mamba2, Any, type[nn.Module]]:
    """Factors of every section, with that of the input in them, and no norm."""
    from transformers.models.falcon_h1.modeling_falcon_h1 import FalconH1Mixer, compute_mup_vector

    config = transformers.FalconH1Config(
        hidden_size=WIDTH,
        mamba_d_ssm=40,
        mamba_n_heads=8,
        mamba_d_head=5,
        mamba_d_state=6,
        mamba_n_groups=2,
        mamba_chunk_size=16,
        ssm_in_multiplier=1.3,
        ssm_multipliers=[0.5, 0.7, 1.1, 0.9, 1.7],
        num_hidden_layers=1,
    )
    block = Mamba2(
        heads=8,
        head=5,
        state=6,
        groups=2,
        gate_norm="none",
        z_scale=0.5 * 1.3,
        x_scale=0.7 * 1.3,
        b_scale=1.1 * 1.3,
        c_scale=0.9 * 1.3,
        dt_scale=1.7 * 1.3,
    )

    class WithMultipliers(FalconH1Mixer):
        """Their model gives the mixer its multipliers."""

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.register_buffer("mup_vector", compute_mup_vector(config), persistent=False)

    return block, config, WithMultipliers


def zamba2() -> tuple[Mamba2, Any, type[nn.Module]]:
    from transformers.models.zamba2.modeling_zamba2 import Zamba2MambaMixer

    config = transformers.Zamba2Config(
        hidden_size=WIDTH,
        n_mamba_heads=4,
        mamba_d_state=6,
        mamba_ngroups=2,
        chunk_size=16,
        num_hidden_layers=2,
        layers_block_type=["mamba"] * 2,
    )
    return Mamba2(heads=4, state=6, groups=2, dt_min=1e-3), config, Zamba2MambaMixer


MODELS = [mamba2, nemotron_h, granite, falcon_h1, zamba2]
Model = Callable[[], tuple[Mamba2, Any, type[nn.Module]]]


def both(model: Model, dtype: torch.dtype) -> tuple[Layer, nn.Module, Any]:
    """Our layer and theirs with the same random weights, and their configuration."""
    torch.manual_seed(0)
    block, config, kind = model()
    theirs, ours = kind(config, 0), block.build(DIMS)
    for name, parameter in theirs.named_parameters():
        nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=parameter.shape[-1] ** -0.5)
        assert name in {NAMES.get(mine, mine) for mine, _ in ours.named_parameters()}, name
    weights = theirs.state_dict()
    ours.load_state_dict({mine: weights[NAMES.get(mine, mine)].view_as(p) for mine, p in ours.named_parameters()})
    return ours.to(dtype), theirs.to(dtype), config


def close(ours: Tensor, right: Tensor, dtype: torch.dtype, what: str) -> None:
    error, most = (ours.double() - right.double()).norm() / right.double().norm(), TOLERANCE[dtype]
    rests = 10 if what == "A_log" else 1  # other processors add such sums in another order: 2 to 3 times the error
    assert error < rests * most, f"{what}: {error:.2g}"


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_outputs_and_every_gradient(model: Model, dtype: torch.dtype) -> None:
    ours, theirs, _ = both(model, dtype)
    x = torch.randn(2, TOKENS, WIDTH, dtype=dtype, requires_grad=True)
    y, right = ours(x)[0], theirs(x)
    close(y, right, dtype, "output")
    slope = torch.randn_like(y)
    grads = torch.autograd.grad(y, [x, *ours.parameters()], slope)
    expected = torch.autograd.grad(right, [x, *(theirs.get_parameter(NAMES.get(n, n)) for n in names(ours))], slope)
    for name, mine, other in zip(["x", *names(ours)], grads, expected, strict=True):
        close(mine, other.view_as(mine), dtype, name)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
@torch.no_grad()
def test_cached_decoding(model: Model, dtype: torch.dtype) -> None:
    ours, theirs, config = both(model, dtype)
    x, cache = torch.randn(2, TOKENS, WIDTH, dtype=dtype), transformers.DynamicCache(config=config)
    right = [theirs(x[:, :PROMPT], cache_params=cache)]
    right += [theirs(x[:, t : t + 1], cache_params=cache) for t in range(PROMPT, TOKENS)]
    y, state = ours(x[:, :PROMPT])
    found = [y]
    for t in range(PROMPT, TOKENS):
        y, state = ours.step(x[:, t : t + 1], state)
        found.append(y)
    close(torch.cat(found, 1), torch.cat(right, 1), dtype, "decoded")


def names(layer: Layer) -> list[str]:
    return [name for name, _ in layer.named_parameters()]
