"""Layers under torch.compile: every kind computes what it does without, and a window compiles once."""

from collections.abc import Callable

import pytest
import torch
from project import ROOT
from torch import Tensor, nn

import hybridkit
from hybridkit.block import Dims, TrainStep
from hybridkit.model.config import ModelConfig
from hybridkit.model.model import Model
from hybridkit.model.plan import compile_pattern
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
    """A backend of torch.compile that runs graphs as they are, and counts them.

    Unless told otherwise it traces the graph of the backward beside the forward's, as inductor wants both.
    """

    def __init__(self) -> None:
        self.count = 0
        self.backward = True

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Call:
        self.counted(graph)
        if not (self.backward and torch.is_grad_enabled()):
            return graph
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


def stack(text: str) -> Model:
    """A model in float64 of entries without FFNs, with weights that shut no gate."""
    model = Model(compile_pattern(text, ModelConfig(width=16, heads=2, vocab=257, ffn=None)))
    draw = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5, generator=draw)
    return model.double()


def outputs(model: Model, training: bool, packed: bool, window: int | None) -> list[Tensor]:
    """The last layer's output on 21 tokens, and in training the gradients of all layers' weights."""
    draw = torch.Generator().manual_seed(1)
    tokens, starts = torch.randint(257, (2, 21), generator=draw), torch.rand(2, 21, generator=draw) < 0.2
    model.zero_grad()
    with torch.set_grad_enabled(training):
        windows = model.fixed_windows(window)
        x = model.hidden(tokens, windows=windows, document_starts=starts if packed else None)[0]
    if training:
        (x * torch.randn(x.shape, dtype=x.dtype, generator=draw)).sum().backward()
    return [x, *(p.grad for p in model.layers.parameters() if p.grad is not None)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_one_graph_a_mode_and_window_and_computes_what_it_does_without(kind: str) -> None:
    """Two layers of the kind share their graphs, and nothing compiles after the first step in a mode.

    The backward is traced where documents are marked: in every step would take a fifth more time.
    """
    text, graphs = f"{WRITTEN.get(kind, kind)}*2", Graphs()
    compiled, plain = stack(text), stack(text)
    compile_layers(compiled, graphs)
    windows = [4, 8] if kind in WITH_WINDOW else [None]
    steps = [*((True, False, window) for window in windows), (True, True, windows[0]), (False, False, windows[0])]
    added = list[int]()
    for step in steps * 2:
        before, (_, graphs.backward, _) = graphs.count, step
        torch.testing.assert_close(outputs(compiled, *step), outputs(plain, *step), rtol=1e-10, atol=1e-12)
        added.append(graphs.count - before)
    if kind not in BREAKS:
        assert added[: len(steps)] == [1] * len(steps)
    assert added[0] > 0 and added[len(steps) :] == [0] * len(steps)


def test_graphs_of_several_kinds_do_not_grow_with_depth() -> None:
    graphs = Graphs()
    model = stack("[swa:stoch(4,8), mlstm, conv]*3")
    compile_layers(model, lambda graph, inputs: graphs.counted(graph))
    counts = []
    for window in (4, 8, 4, 8):
        outputs(model, True, False, window)
        counts.append(graphs.count)
    assert counts == [3, 4, 4, 4], "one for every kind, and one for every further window"


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
        window, handed = windows[0], for_graphs(many, windows, torch.device("cpu"))[0]
        assert isinstance(handed, Tensor)
        torch.testing.assert_close(
            results(compiled, made, handed, True), results(made, made, window, True), rtol=1e-10, atol=1e-12
        )
        counts.append(graphs.count)
    assert counts[0] > 0 and counts[0] == counts[-1]


@pytest.mark.parametrize("options", ["", "theta=500, scaling=yarn, factor=4, original=8"])
def test_angles_are_computed_once_not_wherever_they_are_read(options: str) -> None:
    names = list[str]()

    def listing(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Call:
        names.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    made = hybridkit.build(f"sa({options})", width=32, heads=2).layers[0]
    given = torch.randn(2, 21, 32), None, None, None
    with torch.no_grad():
        torch.testing.assert_close(
            torch.compile(made, backend=listing)(*given)[0], made(*given)[0], rtol=1e-5, atol=1e-6
        )
    assert any("rope_angles" in name for name in names) and not {"cos", "sin"} & set(names)
