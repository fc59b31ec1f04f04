"""From a pattern to a plan: FFNs added, sizes checked, nothing allocated, every mistake with its place."""

import shutil
from pathlib import Path

import networkx as nx
import pytest
import torch
from project import ROOT
from tiny import some_ids, tiny

from hybridkit.language.pattern_source import PatternError
from hybridkit.model.config import ModelConfig
from hybridkit.model.plan import compile_pattern
from hybridkit.registry.registry import Registry
from hybridkit.system.errors import UserError

SIZES = {"width": 64, "heads": 4, "vocab": 257}


def blocks(pattern: str, **options: object) -> list[str]:
    return [str(entry.block) for entry in compile_pattern(pattern, ModelConfig(**SIZES | options)).entries]


def test_every_mixer_is_followed_by_the_ffn() -> None:
    assert blocks("[swa:8, mlstm]*2") == ["swa:8", "ffn", "mlstm", "ffn"] * 2


def test_a_pattern_that_names_an_ffn_gets_none_added() -> None:
    assert blocks("[swa:8, mlstm, ffn(width=128)]") == ["swa:8", "mlstm", "ffn(width=128)"]


def test_the_recipe_chooses_the_ffn() -> None:
    assert blocks("mlstm", ffn={"block": "ffn", "width": 192}) == ["mlstm", "ffn(width=192)"]
    assert blocks("mlstm", ffn=None) == ["mlstm"]


def test_the_canonical_pattern_leaves_out_what_was_added_and_what_is_default() -> None:
    plan = compile_pattern(
        "[[swa(theta=1e4):stoch(128,2048,p=.5), mlstm], [swa:stoch(128,2048), mlstm]]*6", ModelConfig(**SIZES)
    )
    assert plan.pattern == "[swa:stoch(128,2048), mlstm]*12"
    assert compile_pattern(plan.pattern, ModelConfig(**SIZES)) == plan


def test_an_entry_of_branches_gets_one_ffn_and_prints_canonically() -> None:
    plan = compile_pattern("[[swa:fixed(8) | mlstm], swa:8|mlstm, sa]", ModelConfig(**SIZES))
    assert list(map(str, plan.entries)) == ["swa:8 | mlstm", "ffn", "swa:8 | mlstm", "ffn", "sa", "ffn"]
    assert plan.pattern == "[[swa:8 | mlstm]*2, sa]"
    assert compile_pattern(plan.pattern, ModelConfig(**SIZES)) == plan
    assert plan.dims.depth == 3, "an entry adds to the stream once"
    own = compile_pattern("[swa(norm=post,heads=2,in_scale=.5):8 | sa(norm=post), ffn(16, norm=none)]*2", plan.config)
    assert own.pattern == "[swa(heads=2,norm=post,in_scale=.5):8 | sa(norm=post), ffn(width=16,norm=none)]*2"
    assert compile_pattern(own.pattern, plan.config) == own


def test_the_graph_is_one_path_with_an_edge_for_a_shared_weight() -> None:
    plan = compile_pattern("[swa:8, mlstm]*2", ModelConfig(**SIZES, tie=True))
    kinds = nx.get_edge_attributes(plan.graph, "kind")
    assert nx.is_directed_acyclic_graph(plan.graph)
    assert list(nx.topological_sort(plan.graph)) == ["embedding", *range(8), "norm", "head"]
    assert kinds.pop(("embedding", "head")) == "tied" and set(kinds.values()) == {"residual"}


@pytest.mark.parametrize(
    ("pattern", "column", "words"),
    [
        ("[swa:8, mlstm(heads=5)]", 9, "heads"),
        ("[swa(kv_heads=3):8, mlstm]", 2, "kv_heads"),
        ("[sa, sa(heads=7)]", 6, "heads"),
        ("[swa, mlstm]", 2, "needs a window"),
        ("[sa, mlstm:128]", 12, "no window"),
        ("[sa, mlstn]", 6, "did you mean `mlstm`"),
        ("[sa | mlstn]", 7, "did you mean `mlstm`"),
        ("[sa | ffn]", 7, "a branch has to mix over time, and ffn does not"),
        ("[sa | mlstm(heads=5)]", 7, "heads"),
        ("[sa(norm=post) | mlstm]", 18, "one normed input"),
        ("sa(norm=after)", 4, "norm"),
        ("sa(out_scale=0)", 4, "out_scale"),
        ("[sa | swa]", 7, "needs a window"),
    ],
)
def test_what_cannot_be_built_is_pointed_at(pattern: str, column: int, words: str) -> None:
    with pytest.raises(PatternError, match=words) as caught:
        compile_pattern(pattern, ModelConfig(**SIZES))
    assert caught.value.column == column


@pytest.mark.parametrize(
    ("ffn", "words"),
    [
        ({"block": "fnn"}, "did you mean `ffn`"),
        ({"block": "ffn", "widht": 3}, "widht"),
        ({"block": "mlstm"}, "mixes"),
        ({"block": "ffn", "width": -1}, "width"),
    ],
)
def test_an_ffn_that_is_none_names_its_key(ffn: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        compile_pattern("mlstm", ModelConfig(**SIZES, ffn=ffn))
    assert "model.ffn" in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "window", "reach"),
    [
        ("swa:4*3", None, 10),
        ("swa:stoch(2,5)*2", 3, 5),
        ("[swa:3 | conv(kernel_size=6)], conv", None, 8),
        ("[swa:4, ffn]*2", None, 7),
        ("sa:stoch(2,4)", 2, 2),
    ],
)
def test_a_stack_reaches_as_far_back_as_it_says_and_no_further(pattern: str, window: int | None, reach: int) -> None:
    """Bit for bit: a token that is one further back leaves the last logits alone, and the furthest one does not."""
    model = tiny(f"[{pattern}]")
    assert model.plan.reach(window) == reach
    ids, last = some_ids(12), 11
    windows = model.plan.fixed_windows(window)
    with torch.no_grad():
        whole = model(ids, windows=windows)[0][0, last]
        for at, same in ((last - reach, True), (last - reach + 1, False)):
            if at >= 0:
                other = ids.clone()
                other[0, at] = (other[0, at] + 1) % 257
                assert torch.equal(model(other, windows=windows)[0][0, last], whole) == same


def test_a_memory_or_attention_without_a_window_reaches_everything() -> None:
    for pattern in ("[swa:4, mlstm]", "[swa:4 | sa]", "sa:stoch(2,all)"):
        plan = compile_pattern(pattern, ModelConfig(**SIZES))
        assert plan.reach() is None
    assert compile_pattern("[swa:4, mlstm]", ModelConfig(**SIZES)).reach(None, "mlstm") == 4


RESERVED = ("norm", "post_norm", "layers", "layer", "step", "forward", "decoder", "training", "to", "replace_layer")


@pytest.mark.parametrize("name", RESERVED)
def test_a_block_cannot_have_a_name_of_the_models_own(name: str, tmp_path: Path) -> None:
    """Its layer would stand in the entry's own part's place."""
    shutil.copy(ROOT / "blocks" / "conv.py", tmp_path / f"{name}.py")
    with pytest.raises(PatternError, match=f"`{name}` is a name of the model's own"):
        compile_pattern(f"[sa, {name}]", ModelConfig(16, 2, 257), registry=Registry((tmp_path / f"{name}.py",)))
