"""A decoding step as a graph, on a simulated device: the same memory at every token, the logits of plain steps, and no
operation that would wait for the device."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from project import ROOT
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import hybridkit
from hybridkit.block import State, clone_state, packed
from hybridkit.inference import decode
from hybridkit.inference.decode import chunk_within, prefill
from hybridkit.inference.step_graph import graph_step, places
from hybridkit.model.model import Model

KINDS = sorted(path.stem for path in (ROOT / "blocks").glob("[!_]*.py"))
WRITTEN = {"swa": "swa:6", "moe": "moe(4,2,16)"}
WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select"}


class Waits(TorchDispatchMode):
    """Collects the operations that would wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in WAITS:
            self.found.append(func._schema.name)
        return func(*args, **(kwargs or {}))


class Simulated:
    """Repeats a function on the memory that it first used, as a graph does, and refuses one that waits."""

    def __init__(self, states: list[State]) -> None:
        self.states, self.logits, self.replays = states, list[Tensor](), 0

    def warm_up(self, run: Callable[[], object]) -> None:
        run()

    def record(self, run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], object]]:
        kept = [clone_state(state) for state in self.states]
        with Waits() as waits:
            logits = run()
        if waits.found:
            raise RuntimeError(f"operation not permitted when stream is capturing: {waits.found[0]}")
        for state, before in zip(self.states, kept, strict=True):
            for tensor, value in zip(state, before, strict=True):
                tensor.copy_(value)

        def replay() -> None:
            self.replays += 1
            logits.copy_(run())

        return logits, replay


def started(kind: str) -> tuple[Model, list[State], Tensor]:
    """A model of one kind, states with room for 12 tokens after 5, and the next tokens (T, B)."""
    torch.manual_seed(0)
    model = hybridkit.build(f"[{WRITTEN.get(kind, kind)}]*2", width=16, heads=2).eval()
    tokens = torch.randint(257, (12, 2))
    context = prefill(model, tokens[:5].T)
    return model, model.reserve([clone_state(state) for state in context.states], 12), tokens[5:]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_recorded_step_uses_the_same_memory_and_gives_the_logits_of_plain_steps(kind: str) -> None:
    model, states, tokens = started(kind)
    expected = [clone_state(state) for state in states]
    recorder, where = Simulated(states), places(states)
    step = graph_step(model.step, tokens[0], states, recorder)
    assert step != model.step
    held = set()
    for token in tokens:
        logits, states = step(token, states)
        right, expected = model.step(token, expected)
        torch.testing.assert_close(logits, right, rtol=0, atol=0)
        held.add(logits.data_ptr())
        assert places(states) == where, "nothing is allocated anew"
    assert len(held) == 1 and recorder.replays == len(tokens)


@pytest.mark.parametrize(
    "kind", [*KINDS, "swa(sinks=true,qk_norm=true,gate=true,kv_heads=1):6", "sa(bias=true,rope=.5)", "ffn(width=171)"]
)
@torch.no_grad()
def test_steps_laid_out_for_a_gpu_equal_plain_ones_and_wait_for_nothing(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, states, tokens = started(kind)
    model, states = model.double(), [type(s)(*(t.double() if t.is_floating_point() else t for t in s)) for s in states]
    expected = [clone_state(state) for state in states]
    monkeypatch.setattr(packed, "on_gpu", lambda weight: True)
    plain = partial(model.run_steps, [layer.decoder(2) for layer in model.layers])
    step = graph_step(plain, tokens[0], states, Simulated(states))
    assert step != plain or kind == "moe", "experts in float64 take a product each, whose sizes are asked for"
    for token in tokens:
        logits, states = step(token, states)
        right, expected = model.step(token, expected)
        torch.testing.assert_close(logits, right, rtol=1e-12, atol=1e-12)  # 1e-13 was enough


def test_a_prompt_is_read_in_chunks_that_memory_allows() -> None:
    free = 10 * 2**30
    assert chunk_within(free, 2048, 1) == 32768 and chunk_within(free, 2048, 8) == 4096
    assert chunk_within(free, 4096, 2) == 8192 and chunk_within(0, 64, 1) == 2048


@torch.no_grad()
def test_a_step_that_waits_or_allocates_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    model, states, tokens = started("swa")
    plain = type(model).step
    for changed in (
        lambda *a: plain(*a) if a[1].sum().item() else None,
        lambda m, t, s: plain(m, t, [*map(clone_state, s)]),
    ):
        monkeypatch.setattr(type(model), "step", changed)
        assert graph_step(model.step, tokens[0], states, Simulated(states)) == model.step


@pytest.mark.slow
def test_decoding_keeps_its_graph_until_a_state_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for twice what was read, so 16, 34 and 57 tokens; one graph for all where no state grows."""
    recorded = list[Simulated]()

    def simulated(plain: Any, token: Tensor, states: Any) -> Any:
        recorded.append(Simulated(states))
        return graph_step(plain, token, states, recorded[-1])

    monkeypatch.setattr(decode, "uses_graph", lambda model: True)
    monkeypatch.setattr(decode, "packs", lambda model: False)
    monkeypatch.setattr(decode, "graph_step", simulated)
    monkeypatch.setattr(decode, "_GRAPH_ROOM", 12)
    for pattern, graphs in (("[swa:6, mlstm]", 1), ("[sa, mlstm]", 3)):
        torch.manual_seed(0)
        model, recorded[:] = hybridkit.build(pattern, width=16, heads=2).eval(), []
        context = model.prefill(torch.randint(257, (2, 7)))
        made = torch.stack(list(model.generate(context, max_tokens=50, temperature=0)), 1)
        assert len(recorded) == graphs and sum(one.replays for one in recorded) == 49
        monkeypatch.setattr(decode, "uses_graph", lambda model: False)
        assert torch.equal(made, torch.stack(list(model.generate(context, max_tokens=50, temperature=0)), 1))
        monkeypatch.setattr(decode, "uses_graph", lambda model: True)
