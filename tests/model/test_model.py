"""The model around the blocks: names, sharing, loss, documents, recomputation, carried states."""

import subprocess
import sys
import weakref
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import hybridkit
from hybridkit.block import TrainStep
from hybridkit.model.model import Model

PATTERN = "[swa(kv_heads=2):stoch(4,16), mlstm, sa]*2"


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return hybridkit.build(PATTERN, width=32, heads=4, vocab=300).double()


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(300, (2, 45), generator=torch.Generator().manual_seed(1))


def test_weights_are_named_like_the_pattern(model: Model) -> None:
    names = set(model.state_dict())
    assert {"layers.0.swa.q.weight", "layers.1.ffn.down.weight", "layers.2.mlstm.fgate.bias"} <= names
    assert {"embedding.weight", "norm.weight", "head.weight", "layers.4.norm.weight"} <= names


def test_one_seed_gives_one_model() -> None:
    built = []
    for _ in range(2):
        torch.manual_seed(5)
        built.append(hybridkit.build(PATTERN, width=32).state_dict())
    assert all(torch.equal(built[0][name], built[1][name]) for name in built[0])


def test_the_loss_is_that_of_its_logits(model: Model, tokens: torch.Tensor) -> None:
    logits, _ = model(tokens[:, :-1])
    loss, _ = model(tokens[:, :-1], targets=tokens[:, 1:])
    torch.testing.assert_close(loss, F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum"))


def test_a_tied_head_is_the_embedding_and_a_cap_bounds_the_logits(tokens: torch.Tensor) -> None:
    model = hybridkit.build("mlstm", width=32, vocab=300, tie=True, logit_cap=0.5)
    assert model.head.weight is model.embedding.weight
    assert sum(p.shape[0] == 300 for p in model.parameters()) == 1
    assert model(tokens)[0].abs().max() <= 0.5


def test_recomputation_changes_no_gradient(model: Model, tokens: torch.Tensor) -> None:
    gradients = []
    for model.recompute in (False, True):
        loss, _ = model(tokens, windows=model.fixed_windows(4), targets=tokens)
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    torch.testing.assert_close(*gradients)


def test_states_carry_on_and_steps_follow(model: Model, tokens: torch.Tensor) -> None:
    whole, _ = model(tokens)
    first, states = model(tokens[:, :20])
    states = model.reserve(states, tokens.shape[1])
    torch.testing.assert_close(first, whole[:, :20])
    with torch.no_grad():
        for t in range(20, tokens.shape[1]):
            logits, states = model.step(tokens[:, t], states)
            torch.testing.assert_close(logits, whole[:, t])


@pytest.mark.parametrize("recompute", [False, True])
def test_training_holds_no_state_of_a_layer_that_has_run(tokens: torch.Tensor, recompute: bool) -> None:
    model, alive = hybridkit.build("[sa]*4", width=32, heads=4, vocab=300), list[int]()
    model.recompute, made = recompute, list[weakref.ref[torch.Tensor]]()

    def count(layer: torch.nn.Module, given: object, result: tuple[torch.Tensor, list[Any]]) -> None:
        alive.append(sum(reference() is not None for reference in made))
        made.extend(weakref.ref(state.k) for state in result[1] if state)

    for layer in model.layers:
        layer.register_forward_hook(count)
    loss, states = model(tokens, targets=tokens, keep_states=False)
    assert states == [] and torch.equal(loss, model(tokens, targets=tokens)[0])
    assert max(alive[:8]) <= 1 < max(alive[8:]), "of the layer before, until the next one has run"


def test_packed_documents_are_apart(model: Model, tokens: torch.Tensor) -> None:
    document_starts = torch.zeros_like(tokens, dtype=torch.bool)
    document_starts[:, 17] = True
    packed, _ = model(tokens, document_starts=document_starts)
    torch.testing.assert_close(packed[:, 17:], model(tokens[:, 17:])[0])


def test_windows_come_from_the_policy_and_reach_the_layers(model: Model, tokens: torch.Tensor) -> None:
    drawn = {tuple(model.windows(TrainStep(0, step, 50))) for step in range(50)}
    assert drawn == {(w, None, None, None, None, None) * 2 for w in (4, 16)}
    assert model.windows(TrainStep(0, 0, 50, training=False))[0] == 16
    torch.testing.assert_close(model(tokens, windows=model.fixed_windows(16))[0], model(tokens)[0])
    assert not torch.allclose(model(tokens, windows=model.fixed_windows(4))[0], model(tokens)[0])


def test_depth_scales_what_is_written_to_the_residual_stream() -> None:
    shallow, deep = (hybridkit.build(f"mlstm*{n}", width=64).layers[0].layer.out.weight.std() for n in (1, 16))
    assert 12 < shallow / deep < 20  # 16, to the sampling error of 4096 weights


ON_META = """
import sys
import torch
from hybridkit.model.config import ModelConfig
from hybridkit.model.model import Model
from hybridkit.model.plan import compile_pattern

patterns = ["sa", "swa(sinks=true):8", "mla", "mlstm", "gdn", "kda", "mamba2", "rglru", "conv", "moe(4,2,8)"]
for pattern in patterns:
    plan = compile_pattern(pattern, ModelConfig(width=32, heads=4, vocab=257))
    with torch.device("meta"):
        Model(plan)
sys.exit("torch._dynamo" in sys.modules)
"""


@pytest.mark.slow
def test_a_model_without_numbers_does_not_load_the_compiler() -> None:
    """On the meta device some operations load it, which takes seconds; every verb that reads a run builds there."""
    assert subprocess.run([sys.executable, "-c", ON_META], check=False).returncode == 0
