"""The memory estimate against what small real runs allocate."""

from collections.abc import Iterator

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from hybridkit.block import Dims, Entry, Layer
from hybridkit.cost import memory
from hybridkit.cost.flops import CostSettings
from hybridkit.cost.memory import PersistentMemory, Training, activations, persistent_memory
from hybridkit.model.config import ModelConfig
from hybridkit.model.model import Model
from hybridkit.model.plan import Plan, compile_pattern
from hybridkit.recipe.schema import Train
from hybridkit.registry.kinds import BLOCK
from hybridkit.registry.registry import REGISTRY
from hybridkit.training.micro_batches import rows_within
from hybridkit.training.optimizer_state import parameter_groups
from hybridkit.training.optimizers.adamw import Adamw
from hybridkit_blocks.ops import mlstm_kernels

ROWS, TOKENS = 2, 640
PATTERNS = ["swa:16*2", "[sa(kv_heads=2)]*2", "mlstm*2", "[swa:stoch(16,64), mlstm]"]


def compiled(pattern: str, tie: bool = False) -> Plan:
    return compile_pattern(pattern, ModelConfig(width=64, heads=4, vocab=257, tie=tie))


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(257, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0))
    document_starts = torch.zeros(ROWS, TOKENS, dtype=torch.bool)
    document_starts[:, 100] = True
    return {"tokens": ids, "targets": ids, "document_starts": document_starts}


def live_bytes(model: Model, autocast: bool) -> int:
    """Bytes that a forward pass with its loss leaves allocated."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        given = batch()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss, _ = model(**given)
        del _
        assert loss.requires_grad
    events = seen.profiler.kineto_results.events()  # type: ignore[union-attr]
    return sum(event.nbytes() for event in events if event.name() == "[memory]")


@pytest.fixture
def a_gpus_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Triton as if it were installed; no kernel may run, since there is nothing to run it on."""

    def refuse(*_: object) -> bool:
        raise AssertionError("an estimate runs no kernel")

    monkeypatch.setattr(mlstm_kernels, "has_triton", lambda: True)
    monkeypatch.setattr(mlstm_kernels, "may_run", refuse)
    memory._kept.cache_clear()
    yield
    memory._kept.cache_clear()


@pytest.mark.usefixtures("a_gpus_kernels")
def test_on_a_gpu_the_mlstm_keeps_what_its_kernel_keeps() -> None:
    """No states of chunks: little more than attention keeps, whose q, k and v are as wide together with its output."""

    def layer(name: str, device: memory.DeviceKind) -> float:
        """Bytes a token and width of one more layer."""
        two, one = (
            activations(compiled(pattern), Training("bf16", resets=False, device=device), CostSettings(4096)).kept
            for pattern in (f"{name}*2", name)
        )
        return (two - one) / 4096 / 64

    assert layer("swa:16", "cuda") == layer("swa:16", "cpu")
    assert layer("swa:16", "cuda") < layer("mlstm", "cuda") < 1.2 * layer("swa:16", "cuda")
    assert layer("mlstm", "cpu") > 2 * layer("mlstm", "cuda")


@pytest.mark.parametrize("tie", [False, True])
def test_weights_gradients_and_optimizer_are_what_a_step_leaves(tie: bool) -> None:
    model = Model(compiled(PATTERNS[-1], tie))
    optimizer = Adamw().build(parameter_groups(model, Train().weight_decay), Train())
    model(**batch())[0].backward()
    optimizer.step()
    moments = [tensor for state in optimizer.state.values() for tensor in state.values()]
    found = persistent_memory(model.plan, Training())
    assert found.weights == sum(weight.nbytes for weight in model.parameters())
    assert found.gradients == sum(weight.grad.nbytes for weight in model.parameters())  # type: ignore[union-attr]
    assert found.optimizer == pytest.approx(sum(tensor.nbytes for tensor in moments), rel=0.02)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_activations_are_what_a_forward_pass_keeps(pattern: str, precision: str) -> None:
    model = Model(compiled(pattern))
    found = activations(model.plan, Training(precision, ROWS), CostSettings(TOKENS))  # type: ignore[arg-type]
    assert found.kept == pytest.approx(live_bytes(model, precision == "bf16"), rel=0.15)


def test_recomputation_keeps_the_stream_and_one_layer() -> None:
    model = Model(compiled("[swa:16, mlstm]*4"))
    found = activations(model.plan, Training("fp32", ROWS), CostSettings(TOKENS))
    model.recompute = True
    left = live_bytes(model, False)  # the inputs of 16 layers and the final norm, and what the loss keeps
    stream = ROWS * TOKENS * 64 * 4
    assert left == pytest.approx(18 * stream + 257 * 64 * 4, rel=0.15)
    one = activations(compiled("[swa:16, mlstm]"), Training("fp32", ROWS), CostSettings(TOKENS)).kept
    assert left < found.recomputed < left + one < found.kept


def peak_bytes(model: Model, ids: torch.Tensor) -> int:
    """The most bytes that a forward and a backward pass hold at a time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        model(ids, targets=ids)[0].backward()
    held, most = 0, 0
    for event in seen.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("pattern", ["swa:16*2", "mlstm*2"])
def test_the_peak_of_backward_is_estimated_within_a_tenth(pattern: str, recompute: bool) -> None:
    """4,096 tokens: with few, the rooms that CPU kernels work in would count."""
    model, ids = Model(compiled(pattern)), torch.zeros(1, 4096, dtype=torch.int64)
    model.recompute = recompute
    found = activations(model.plan, Training("fp32", resets=False), CostSettings(4096)).peak(recompute)
    peak = peak_bytes(model, ids)
    gradients = sum(weight.grad.nbytes for weight in model.parameters())  # type: ignore[union-attr]
    assert found + gradients == pytest.approx(peak, rel=0.1)


@pytest.mark.slow
def test_a_micro_batch_takes_the_rows_that_the_estimate_says_fit() -> None:
    plan = compiled("[swa:16, mlstm]*2")
    held = persistent_memory(plan, Training())
    for recompute in (False, True):
        train = Train(recompute=recompute)
        one, five = (activations(plan, Training("fp32", rows), CostSettings(512)).peak(recompute) for rows in (1, 5))
        own = held.weights + held.gradients + held.optimizer
        assert rows_within(own + five, plan, train, 512, "fp32") == 5
        assert rows_within(own + one + (five - one) // 4 - 8, plan, train, 512, "fp32") == 1
        assert rows_within(0, plan, train, 512, "fp32") == 1


@pytest.mark.slow
def test_twice_the_tokens_or_rows_take_twice_the_memory_of_the_layers() -> None:
    plan = compiled("[swa:64, mlstm]")
    one, rows, tokens = (
        activations(plan, Training("fp32", n), CostSettings(m)).kept for n, m in ((1, 1024), (2, 1024), (1, 2048))
    )
    assert rows == pytest.approx(2 * one, rel=0.05) and tokens == pytest.approx(2 * one, rel=0.05)


def test_zero_shares_out_optimizer_then_gradients_then_weights() -> None:
    states = PersistentMemory(100, 100, 200)
    assert [states.on_rank(stage, 4) for stage in range(4)] == [400, 250, 175, 100]
    assert states.on_rank(3, 3) == 34 + 34 + 67
    assert (
        persistent_memory(compiled("sa"), Training("fp64")).weights
        == 2 * persistent_memory(compiled("sa"), Training()).weights
    )


MIXERS = sorted(set(REGISTRY.names(BLOCK)) - {"swa", "ffn", "moe"})  # experts are chosen by values


@pytest.mark.parametrize("pattern", ["swa:8", "sa:stoch(8,16)", *MIXERS])
def test_no_mixer_is_run_for_real(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*given: object) -> tuple[int, int]:
        raise AssertionError("a layer that reads no values was run on real tensors")

    monkeypatch.setattr("hybridkit.cost.memory._real_run", refused)
    assert activations(compiled(pattern), Training(micro_batch=3), CostSettings(TOKENS)).kept > 0


def test_a_layer_that_looks_at_its_values_is_run_for_real_on_two_rows_at_most() -> None:
    read: list[int] = []

    class Looking(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(64))

        def forward(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
            y = (x * self.weight if x.sum().item() != 1e30 else x), ()
            read.append(len(x))
            return y

    class Look(compiled("sa").entries[0].block.__class__):  # type: ignore[misc]
        def build(self, dims: Dims) -> Layer:
            return Looking()

    entry, rows = Entry((Look(),)), 10**6
    plan = Plan((entry,), (entry,), ModelConfig(64, 4, 257))
    found, more = (activations(plan, Training("fp32", n), CostSettings(TOKENS)).kept for n in (rows, 2 * rows))
    assert rows * TOKENS * 64 * 4 < found < more < 2 * found and set(read) == {1, 2}
