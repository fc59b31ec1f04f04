"""What makes training and decoding fast on CUDA: compiled layers, one cast a step, padded widths, a graph of a step."""

import pytest
import torch

import hybridkit
from hybridkit.block import clone_state, linear, padding
from hybridkit.data.batches import Batch
from hybridkit.inference.decode import packed_step, prefill
from hybridkit.inference.step_graph import graph_step
from hybridkit.recipe.schema import Train
from hybridkit.training.engines.local.engine import LocalEngine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore"),  # torch.compile causes warnings by itself
]
PATTERN = "[swa:stoch(16,64), mlstm]*2"


def losses(compile: bool, precision: str = "bf16") -> list[float]:
    """Of six steps on one batch, with windows that switch."""
    plan = hybridkit.build(PATTERN, width=256, heads=2).plan
    given = {"precision": precision, "device": "cuda", "compile": compile}
    engine, draw = LocalEngine(plan, Train(**given)), torch.Generator().manual_seed(0)
    ids = torch.randint(257, (2, 256), generator=draw)
    batch, found = Batch(ids, ids.roll(-1, 1), torch.rand(2, 256, generator=draw) < 0.01, 0), list[float]()
    for step in range(6):
        windows = plan.fixed_windows((16, 64)[step % 2])
        found.append(engine.gradients([batch], windows, ids.numel()).nats / ids.numel())
        engine.update(1e-3)
    return found


def test_compiled_layers_learn_as_eager_ones_do() -> None:
    """bf16 keeps 8 bits of every product; a loss is a mean over 512 tokens."""
    eager, compiled = losses(False), losses(True)
    assert compiled == pytest.approx(eager, abs=0.03) and compiled[-1] < compiled[0] - 0.1


def test_a_switch_of_windows_compiles_nothing_after_the_first_step_of_each() -> None:
    plan = hybridkit.build(PATTERN, width=256, heads=2).plan
    engine = LocalEngine(plan, Train(precision="bf16", device="cuda", compile=True))
    ids = torch.randint(257, (1, 256))
    batch = Batch(ids, ids.roll(-1, 1), None, 0)
    for step in range(6):
        with torch.compiler.set_stance("default" if step < 2 else "fail_on_recompile"):
            engine.gradients([batch], plan.fixed_windows((16, 64)[step % 2]), 256)
            engine.update(1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_padded_products_are_those_of_the_weights(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, weight = (torch.randn(n, 192, device="cuda", dtype=dtype, requires_grad=True) for n in (300, 1365))
    found = []
    for on in (True, False):
        with padding(on):
            y = linear(x, weight)
            found.append([y, *torch.autograd.grad(y, [x, weight], torch.ones_like(y))])
    rounding = 8 * torch.finfo(dtype).eps
    for padded, plain in zip(*found, strict=True):
        assert (padded - plain).norm() <= rounding * plain.norm()


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("pattern", [PATTERN, "[sa(kv_heads=1), gdn, rglru, conv]", "[mla, mamba2, kda]"])
def test_a_step_as_a_graph_gives_the_logits_of_plain_steps(pattern: str, rows: int) -> None:
    torch.manual_seed(0)
    model = hybridkit.build(pattern, width=256, heads=2).cuda().eval()
    tokens = torch.randint(257, (40, rows), device="cuda")
    context = prefill(model, tokens[:20].T.cpu())
    states = model.reserve([clone_state(state) for state in context.states], 40)
    expected = [clone_state(state) for state in states]
    plain = packed_step(model, rows)
    step = graph_step(plain, tokens[20], states)
    assert step is not plain
    for token in tokens[20:]:
        logits, states = step(token, states)
        right, expected = model.step(token, expected)
        torch.testing.assert_close(logits, right, rtol=1e-4, atol=1e-4)


def test_generating_gives_the_same_tokens_with_and_without_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = hybridkit.build("[swa:16, sa, mlstm]", width=256, heads=2).double().cuda().eval()
    context, made = model.prefill(torch.randint(257, (2, 20))), []
    for said in ("1", "0"):
        monkeypatch.setenv("HYBRIDKIT_CUDA_GRAPH", said)
        made.append(torch.stack(list(model.generate(context, max_tokens=70, temperature=0))))
    assert torch.equal(*made)
