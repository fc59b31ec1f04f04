"""Law 5 of every shipped recipe, scaled down, and the sums that a plan's cost is made of."""

import importlib.util
from fractions import Fraction
from functools import cache
from math import prod

import pytest
import torch
from project import ROOT
from torch import nn

from hybridkit.block import (
    Block,
    Count,
    Dims,
    Entry,
    Layer,
    Linear,
    TrainStep,
    product_flops,
    window_limit,
    window_of,
)
from hybridkit.cost.cross_check import scaled_down
from hybridkit.cost.flops import (
    CostSettings,
    cost,
    forward_flops,
    head_flops,
    parameters,
    total_state_bytes,
)
from hybridkit.model.config import ModelConfig
from hybridkit.model.loading import plan
from hybridkit.model.model import Head, Model
from hybridkit.model.plan import Plan, Uninitialized, compile_pattern
from hybridkit.recipe.files import shipped
from hybridkit.registry.registry import REGISTRY
from hybridkit.runs.run import load_recipe
from hybridkit.testing import counted, linear_flops
from hybridkit.testing.mlstm_reference import mlstm_chunkwise, mlstm_recurrent
from hybridkit_blocks.ops.mlstm_chunkwise import chunkwise_mlstm

# Blocks of published models keep the law of costs each in its own test.
RECIPES = sorted(
    {path.stem: name for name, path in shipped().items() if path.parent.name in ("recipes", "paper")}.values()
)
TOKENS = 48


def compiled(pattern: str, width: int = 32, heads: int = 4, vocab: int = 257) -> Plan:
    return compile_pattern(pattern, ModelConfig(width=width, heads=heads, vocab=vocab))


def pairs(tokens: int, window: int | None) -> int:
    """Query-key pairs of a mask, all of them counted."""
    age = torch.arange(tokens)[:, None] - torch.arange(tokens)
    return int(((age >= 0) & (age < (window or tokens))).sum())


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_scaled_down_equals_the_counters(name: str) -> None:
    small = scaled_down(plan(load_recipe(name)))
    for block in {entry.block for entry in small.entries}:
        mixing = {count: block.flops(small.dims, TOKENS, count=count) for count in ("exact", "hardware")}
        linear = linear_flops(on_meta(block, small.dims), small.dims, TOKENS)
        assert mixing["exact"] - linear == reference(block, small.dims, "exact")
        if block.name() == "mlstm":
            projections = [part for part in on_meta(block, small.dims).modules() if isinstance(part, Linear)]
            sizes = [(part.in_features, part.out_features) for part in projections]
            filled = sum(product_flops("hardware")(TOKENS, *size) - 2 * TOKENS * prod(size) for size in sizes)
            assert mixing["hardware"] - linear - filled == reference(block, small.dims, "hardware")
    head = Head(small.dims.width, small.dims.vocab, None)
    assert TOKENS * head_flops(small) == counted(lambda: head(torch.randn(1, TOKENS, small.dims.width)))


def on_meta(block: Block, dims: Dims) -> Layer:
    with torch.device("meta"), Uninitialized():
        return block.build(dims)


def reference(block: Block, dims: Dims, count: Count) -> int:
    """What a block costs beside its linear layers, counted on something else than its formula."""
    if block.name() in ("sa", "swa"):
        queries = on_meta(block, dims).get_parameter("q.weight")  # (H E, D)
        window = window_limit(window_of(block))
        return 4 * len(queries) * pairs(TOKENS, window)
    if block.name() == "mlstm":
        return counted_cell(block.heads or dims.heads, dims.width, count)  # type: ignore[attr-defined]
    return 0


@cache
def counted_cell(heads: int, width: int, count: Count) -> int:
    """torch's count of the cell written as matrix products; one chunk holds all of `TOKENS`."""
    q, k = torch.randn(2, heads, TOKENS, width // heads // 2)
    v, (i, f) = torch.randn(heads, TOKENS, width // heads), torch.randn(2, heads, TOKENS)
    if count == "exact":
        return counted(lambda: mlstm_recurrent(q, k, v, i, f))
    return counted(lambda: mlstm_chunkwise(q, k, v, i, f, TOKENS))


@pytest.mark.parametrize("length", [1, 6, 8, 24])
def test_the_references_compute_the_cell(length: int) -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 3, 24, 8, dtype=torch.float64)
    v, (i, f) = torch.randn(3, 24, 16, dtype=torch.float64), torch.randn(2, 3, 24, dtype=torch.float64)
    h = mlstm_recurrent(q, k, v, i, f)
    torch.testing.assert_close(mlstm_chunkwise(q, k, v, i, f, length), h, rtol=1e-12, atol=1e-12)
    ours, _ = chunkwise_mlstm(*(x[None] for x in (q, k, v, i, f)))
    # The block's normalizer has an eps of 1e-6, which the references do without.
    torch.testing.assert_close(ours[0], h, rtol=1e-3, atol=1e-4)


def test_a_chunkwise_kernel_executes_the_reference_of_its_chunks() -> None:
    block, dims, tokens = REGISTRY.block("mlstm")(), Dims(64, 4, 1), 128
    q, k = torch.randn(2, 4, tokens, 8)
    v, (i, f) = torch.randn(4, tokens, 16), torch.randn(2, 4, tokens)
    executed = block.flops(dims, tokens, count="hardware") - linear_flops(on_meta(block, dims), dims, tokens)
    assert executed == counted(lambda: mlstm_chunkwise(q, k, v, i, f, 64))


@pytest.mark.slow
def test_attention_counts_every_pair_for_every_window_and_length() -> None:
    dims = Dims(16, 2, 1)
    full, linear = REGISTRY.block("sa")(), 8 * 16 * 16
    for tokens in range(1, 65):
        assert full.flops(dims, tokens) == tokens * linear + 4 * 16 * pairs(tokens, None)
        for window in range(1, 65):
            swa = compiled(f"swa:{window}", width=16, heads=2).entries[0].block
            assert swa.flops(dims, tokens) == tokens * linear + 4 * 16 * pairs(tokens, window)
            assert swa.flops(dims, tokens, window) == swa.flops(dims, tokens)


class Plugged(Block):
    """A block that nobody has heard of: width^2 weights, tokens^2 FLOPs, a state of three numbers."""

    def build(self, dims: Dims) -> Layer:
        return PluggedLayer(dims)

    def flops(self, dims: Dims, tokens: int, window: int | None = None, count: Count = "exact") -> int:
        return tokens**2

    def init_state(self, dims, batch, tokens, window=None, *, device=None, dtype=None):  # type: ignore[no-untyped-def]
        return (torch.zeros(batch, 3, device=device, dtype=dtype),)


class PluggedLayer(Layer):
    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dims.width, dims.width))

    def forward(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
        return x @ self.weight, (x.new_zeros(len(x), 3),)


def test_a_plug_in_block_is_counted_like_any_other() -> None:
    entry = Entry((Plugged(),))
    plugged = Plan((entry,) * 2, (entry,) * 2, ModelConfig(8, 1, 10))
    found = cost(plugged, CostSettings(6, batch=5, dtype=torch.bfloat16))
    assert found.parameters == (80, 80, 2 * (64 + 8) + 8)
    assert found.forward == 2 * 6 + 160
    assert found.training == 3 * found.forward and found.recompute == 12
    assert found.prefill == 2 * 36 + 160
    assert found.decode == 2 * (36 - 25) + 160
    assert found.state == 2 * 5 * 3 * 2
    weights, state = 2 * (found.parameters.total - 80), 2 * 3 * 2
    assert found.decode_bytes == Fraction(weights, 5) + 2 * state


def test_decoding_every_position_costs_the_prompt() -> None:
    described = compiled("[swa:5, sa(kv_heads=2), mlstm]")
    steps = [cost(described, CostSettings(n)).decode - head_flops(described) for n in range(1, 20)]
    assert sum(steps) == cost(described, CostSettings(19)).prefill - head_flops(described)
    assert [cost(described, CostSettings(n, "hardware")).decode - head_flops(described) for n in range(1, 20)] == steps
    at_19 = cost(described, CostSettings(19, "paper"))
    assert at_19.decode == at_19.forward, "the paper's convention gives all tokens the same"


def test_training_is_the_mean_over_the_draws_of_a_run() -> None:
    described, steps, tokens = compiled("[swa:stoch(4,16,p=.25,until=.8), mlstm]*2"), 4000, 64
    drawn = [forward_flops(described, tokens, described.windows(TrainStep(0, step, steps))) for step in range(steps)]
    expected = cost(described, CostSettings(tokens)).forward * tokens
    low, high = (forward_flops(described, tokens, [w, None, None, None] * 2) for w in (4, 16))
    # Four standard deviations of the mean of 3200 throws of a coin.
    assert abs(sum(drawn) / steps - expected) < 4 * (high - low) * (0.25 * 0.75 / 3200) ** 0.5
    assert expected == pytest.approx(0.2 * low + 0.8 * high, rel=1e-12)


def test_a_window_overrides_every_policy() -> None:
    stochastic, fixed = compiled("[swa:stoch(4,16), mlstm]"), compiled("[swa:7, mlstm]")
    for figure in ("forward", "prefill", "decode", "state"):
        overridden, own = cost(stochastic, CostSettings(40, window=7)), cost(fixed, CostSettings(40))
        assert getattr(overridden, figure) == getattr(own, figure)


@pytest.mark.parametrize("name", RECIPES)
def test_parameters_are_those_of_the_model(name: str) -> None:
    described = plan(load_recipe(name))
    with torch.device("meta"), Uninitialized():
        model = Model(described)
    found = parameters(described)
    assert found.total == sum(weight.numel() for weight in model.parameters())
    assert found.body == sum(w.numel() for part in (model.layers, model.norm) for w in part.parameters())
    assert (found.head == 0) == described.config.tie


@pytest.mark.parametrize("batch", [1, 3])
def test_state_bytes_are_those_that_a_model_holds(batch: int) -> None:
    described = compiled("[swa:9, sa(kv_heads=1), mlstm]*2")
    model = Model(described).to(torch.bfloat16)
    for tokens in (1, 8, 30):
        _, states = model(torch.zeros(batch, tokens, dtype=torch.int64))
        held = sum(tensor.nbytes for state in states for tensor in state)
        assert total_state_bytes(described, CostSettings(tokens, batch=batch, dtype=torch.bfloat16)) == held


@pytest.mark.slow
def test_the_xlstm_7b_shape_has_as_many_parameters_as_transformers_says() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.xLSTMConfig()
    with torch.device("meta"):
        theirs = transformers.xLSTMForCausalLM(config)
    pattern = f"mlstm(heads={config.num_heads})*{config.num_hidden_layers}"
    ours = compiled(pattern, width=config.hidden_size, vocab=config.vocab_size)
    assert parameters(ours).total == theirs.num_parameters()


def test_the_papers_table_is_reproduced() -> None:
    file = ROOT / "tools" / "reproduce" / "table1.py"
    spec = importlib.util.spec_from_file_location("table1", file)
    assert spec and spec.loader
    table1 = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table1)
    cells = list(table1.cells())
    assert len(cells) == 8
    for cell in cells:
        assert abs(cell.difference) < 5e-4, cell


def test_plans_of_other_depths_share_what_is_known() -> None:
    shallow, deep = compiled("mlstm"), compiled("mlstm*3")
    assert cost(shallow, CostSettings(10)).layers[0] is cost(deep, CostSettings(10)).layers[0]
