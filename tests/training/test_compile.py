"""Layers under torch.compile: every kind computes what it does without, and a window compiles once."""

from collections.abc import Callable

import pytest
import torch
from project import ROOT
from torch import Tensor, nn

import hybridkit
from hybridkit.block import Dims, TrainStep
from hybridkit.training.compile import MANY, compile_layers, for_graphs
from hybridkit_blocks.ops import attend
from hybridkit_blocks.ops.cuda.flex import flex

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # torch.compile causes warnings by itself, and would fail if they were errors
]
KINDS = sorted(path.stem for path in (ROOT / "blocks").glob("[!_]*.py"))
WITH_WINDOW = {"swa": "swa:stoch(4,8)"}
WRITTEN = {"moe": "moe(4,2,16)", **WITH_WINDOW}
BREAKS = {"moe": "how many tokens an expert gets is read from the data, so that its experts run outside of graphs"}
Call = Callable[..., tuple[Tensor, object]]


class Graphs:
    """A backend of torch.compile that runs the graphs of forward and backward as they are, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Call:
        self.counted(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    def counted(self, graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
        self.count += 1
        return graph


def layer(kind: str) -> nn.Module:
    block = hybridkit.build(WRITTEN.get(kind, kind), width=16, heads=2).plan.entries[0].block
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = block.build(Dims(width=16, heads=2, vocab=257))
        for parameter in made.parameters():  # fresh weights of some kinds leave gates shut
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return made.double()


def results(call: Call, made: nn.Module, window: int | Tensor | None, packed: bool) -> list[Tensor]:
    """The output on 21 tokens, and the gradients of the input and of every weight."""
    made.zero_grad()
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(2, 21, 16, dtype=torch.float64, generator=draw, requires_grad=True)
    starts = (torch.rand(2, 21, generator=draw) < 0.2) if packed else None
    y = call(x, window=window, document_starts=starts)[0]
    (y * torch.randn(y.shape, dtype=y.dtype, generator=draw)).sum().backward()
    return [y, x.grad, *(p.grad for p in made.parameters())]


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_one_graph_a_window_and_computes_what_it_does_without(kind: str, packed: bool) -> None:
    made, graphs = layer(kind), Graphs()
    compiled = torch.compile(made, backend=graphs, dynamic=False, fullgraph=kind not in BREAKS)
    windows = [4, 8] if kind in WITH_WINDOW else [None]
    counts = []
    for window in windows * 2:
        found, expected = (results(call, made, window, packed) for call in (compiled, made))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        counts.append(graphs.count)
    if kind not in BREAKS:
        assert counts[: len(windows)] == list(range(1, len(windows) + 1))
    assert counts[0] > 0 and counts[len(windows) - 1] == counts[-1]


@pytest.mark.slow
def test_graphs_do_not_grow_with_depth_nor_after_the_first_step_of_each_kind() -> None:
    kinds = [kind for kind in KINDS if kind not in BREAKS]
    graphs = Graphs()
    model = hybridkit.build(f"[{', '.join(WRITTEN.get(kind, kind) for kind in kinds)}]*3", width=16, heads=2)
    compile_layers(model, lambda graph, inputs: graphs.counted(graph))
    tokens, starts = torch.randint(257, (2, 9)), torch.rand(2, 9) < 0.3
    steps, added = [(None, 4, True), (None, 8, True), (starts, 4, True), (None, 4, False)], list[int]()
    for document_starts, window, training in steps * 2:
        before = graphs.count
        with torch.set_grad_enabled(training):
            model.hidden(tokens, windows=model.fixed_windows(window), document_starts=document_starts)
        added.append(graphs.count - before)
    assert added[:2] == [len(kinds), len(WITH_WINDOW)], "one for every kind, and one for every further window"
    assert max(added[2:4]) <= len(kinds) and added[4:] == [0] * 4


def test_attention_on_cuda_is_part_of_its_layers_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexAttention runs on a CPU too, without its gradient: the mask, made in the graph, is what is tried here."""
    made, graphs, draw = layer("swa"), Graphs(), torch.Generator().manual_seed(0)
    x, starts = torch.randn(2, 20, 16, dtype=torch.float64, generator=draw), torch.rand(2, 20, generator=draw) < 0.2
    cases = [(torch.tensor(6), starts), (torch.tensor(7), starts), (4, None)]
    with torch.no_grad():
        right = [made(x, window=window, document_starts=marks)[0] for window, marks in cases]
        monkeypatch.setattr(attend, "_attend_in_blocks", lambda *given: flex(*given[:5], *given[5]))
        compiled = torch.compile(made, backend=lambda g, inputs: graphs.counted(g), dynamic=False, fullgraph=True)
        for (window, marks), expected in zip(cases, right, strict=True):
            torch.testing.assert_close(compiled(x, window=window, document_starts=marks)[0], expected)
    assert graphs.count == 2, "a window in a tensor is read by the mask"


def test_a_policy_of_many_windows_compiles_no_window_anew() -> None:
    many = hybridkit.build(f"swa:uniform(1,{MANY + 1})", width=16, heads=2).plan
    made, graphs = layer("swa"), Graphs()
    compiled = torch.compile(made, backend=graphs, dynamic=False)
    counts = []
    for step in range(6):
        windows = many.windows(TrainStep(0, step, 6))
        window, handed = windows[0], for_graphs(many, windows)[0]
        assert isinstance(handed, Tensor)
        torch.testing.assert_close(
            results(compiled, made, handed, True), results(made, made, window, True), rtol=1e-10, atol=1e-12
        )
        counts.append(graphs.count)
    assert counts[0] > 0 and counts[0] == counts[-1]
