"""An entry against its equations: norms, factors, branches side by side; and whole = chunked = step by step."""

from itertools import product
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch
from tiny import some_ids
from torch import Tensor

import hybridkit
from hybridkit.block import TrainStep
from hybridkit.cost.flops import CostSettings, cost, forward_flops, parameters
from hybridkit.inference.context_file import load_context, save_context
from hybridkit.inference.decode import packed_step
from hybridkit.inference.language_model import LanguageModel
from hybridkit.model.residual import Residual
from hybridkit.system.errors import UserError

BOTH = "[swa(heads=2,out_scale=.5):stoch(3,9) | mlstm(in_scale=2), ffn(width=48)]*2"
PLACEMENTS = ("pre", "post", "both", "none")
EXACT = {"rtol": 1e-10, "atol": 1e-10}  # some hundred float64 additions


def built(pattern: str, **options: Any) -> LanguageModel:
    """A float64 model whose every weight counts."""
    torch.manual_seed(0)
    model = hybridkit.build(pattern, width=32, **options).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return model


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


@pytest.mark.parametrize(("norm", "branches"), list(product(PLACEMENTS, ("sum", "mean_norm"))))
def test_an_entry_is_its_equation(norm: str, branches: str) -> None:
    """x + s post(sum over b of o_b layer_b(i_b pre(x))), or the mean behind own norms in place of the sum."""
    model = built(BOTH, norm=norm, branches=branches, norm_eps=1e-3, residual_scale=0.3)
    entry, x = model.layers[0], torch.randn(2, 7, 32, dtype=torch.float64)
    weights = entry.state_dict()
    h = rms(x, weights["norm.weight"], 1e-3) if norm in ("pre", "both") else x
    made = [layer(h * scale, None)[0] for layer, scale in zip(entry.layers, (1, 2), strict=True)]
    if branches == "mean_norm":
        made = [rms(y, weights[f"{branch}.norm.weight"], 1e-3) / 2 for branch, y in enumerate(made)]
    y = made[0] * 0.5 + made[1]
    y = rms(y, weights["post_norm.weight"], 1e-3) if norm in ("post", "both") else y
    torch.testing.assert_close(entry(x, None, None, None)[0], x + 0.3 * y, **EXACT)
    assert sum(p.numel() for p in model.parameters()) == parameters(model.plan).total


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"norm": "both", "branches": "mean_norm"}, {"norm": "none"}], ids=str)
def test_branches_decode_as_they_read(options: dict[str, str], tmp_path: Path) -> None:
    model, ids = built("[swa:stoch(3,9) | sa | mlstm, sa]", **options), some_ids(60, rows=2)
    with torch.no_grad():
        whole = model(ids)[0]
        context = model.prefill(ids[:, :31], chunk=7)
        torch.testing.assert_close(context.logits, whole[:, 30], **EXACT)
        save_context(context, model, tmp_path / "read")
        states = model.reserve(load_context(tmp_path / "read", model).states, 60)
        packed = packed_step(model, 2)
        for place in range(31, 60):
            step = model.step if place % 2 else packed
            logits, states = step(ids[:, place], states)
            torch.testing.assert_close(logits, whole[:, place], **EXACT)
    other = hybridkit.build("[swa:stoch(3,9) | sa | mlstm, sa]", width=32, residual_scale=0.5, **options).double()
    other.load_state_dict(model.state_dict())
    with pytest.raises(UserError, match="another model"):
        load_context(tmp_path / "read", other)


def test_documents_and_windows_reach_every_branch() -> None:
    model, ids = built("[swa:2 | swa:8 | mlstm]"), some_ids(30)
    starts = torch.zeros(1, 30, dtype=torch.bool)
    starts[:, 12] = True
    packed = model(ids, document_starts=starts)[0]
    torch.testing.assert_close(packed[:, 12:], model(ids[:, 12:])[0], **EXACT)
    narrow = model(ids, windows=[2, 2, None, None])[0]
    assert torch.equal(narrow[:, :2], model(ids)[0][:, :2]) and not torch.allclose(narrow, model(ids)[0])
    with pytest.raises(ValueError, match=r"\w"):
        model(ids, windows=[2, 2])  # one a branch


def test_branches_have_names_windows_and_draws_of_their_own() -> None:
    plan = hybridkit.build("[sa, swa:stoch(2,4,scope=layer) | mlstm | swa:stoch(2,4,scope=layer)]", width=32).plan
    assert [branch.name for branch in plan.branches] == ["0", "1", "2.0", "2.1", "2.2", "3"]
    drawn = [plan.windows(TrainStep(0, step, 200)) for step in range(200)]
    assert {(row[2], row[4]) for row in drawn} == {(2, 2), (2, 4), (4, 2), (4, 4)}
    assert all(row[:2] == [None, None] and row[3] is None for row in drawn)
    names = hybridkit.build(BOTH, width=32, branches="mean_norm").state_dict()
    assert {"layers.0.0.swa.q.weight", "layers.0.1.mlstm.out.weight", "layers.0.1.norm.weight"} <= set(names)
    assert "layers.1.ffn.up.weight" in names


def test_one_block_is_named_initialized_and_costed_as_without_branches() -> None:
    """Weights are drawn in the order of the stack: embedding, then block after block."""
    torch.manual_seed(3)
    model = hybridkit.build("[swa:4, mlstm]", width=32)
    torch.manual_seed(3)
    torch.nn.init.normal_(torch.empty(257, 32))
    for entry, layer in zip(model.plan.entries, model.layers, strict=True):
        alone = entry.block.build(model.plan.dims).state_dict()
        own = {name: value for name, value in layer.state_dict().items() if name != "norm.weight"}
        assert own.keys() == {f"{entry.block.name()}.{name}" for name in alone}
        assert all(torch.equal(own[f"{entry.block.name()}.{name}"], value) for name, value in alone.items())
    assert not any(key in model.plan.config.stack_options() for key in ("norm", "branches"))


def test_costs_of_branches_add_up() -> None:
    both, apart = (hybridkit.build(p, width=32).plan for p in ("swa:stoch(3,9) | mlstm", "[swa:stoch(3,9), mlstm]"))
    settings = CostSettings(40)
    whole, parts = cost(both, settings), cost(apart, settings)
    one = whole.layers[0]
    for field in ("forward", "prefill", "decode", "state", "written"):
        assert getattr(one, field) == sum(getattr(parts.layers[place], field) for place in (0, 2))
    assert one.parameters == parts.layers[0].parameters + parts.layers[2].parameters - 32, "one norm instead of two"
    ffn = parts.layers[1].forward
    assert forward_flops(both, 40, [3, None, None]) + ffn == forward_flops(apart, 40, [3, None, None, None])


def test_the_graph_forks_and_meets_again() -> None:
    graph = hybridkit.build("[sa | mlstm, sa]", width=32, tie=True).plan.graph
    kinds = nx.get_edge_attributes(graph, "kind")
    assert {edge for edge, kind in kinds.items() if kind == "branch"} == {
        ("embedding", "0.0"), ("0.0", 0), ("embedding", "0.1"), ("0.1", 0),
    }  # fmt: skip
    assert str(graph.nodes["0.1"]["block"]) == "mlstm" and nx.is_directed_acyclic_graph(graph)
    assert nx.shortest_path(graph, "embedding", "norm") == ["embedding", 0, 1, 2, 3, "norm"]


def test_the_logits_are_scaled_before_their_cap() -> None:
    plain, scaled = built("sa"), built("sa", logit_scale=0.25, logit_cap=3.0)
    ids = some_ids(9)
    torch.testing.assert_close(scaled(ids)[0], 3 * torch.tanh(plain(ids)[0] / 4 / 3), **EXACT)
    loss, _ = scaled(ids[:, :-1], targets=ids[:, 1:])
    logits = scaled(ids[:, :-1])[0]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    torch.testing.assert_close(loss, expected)


def test_gradients_of_branches_are_those_of_the_sum() -> None:
    model, ids = built(BOTH, norm="both"), some_ids(20)
    gradients = []
    for model.recompute in (False, True):
        loss, _ = model(ids, targets=ids)
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    torch.testing.assert_close(*gradients)
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])


def test_a_layer_is_replaced_in_its_branch() -> None:
    entry = built(BOTH).layers[0]
    assert isinstance(entry, Residual)
    first, second = entry.layers
    entry.replace_layer(1, first)
    assert entry.layers == [first, first] and second is not first
