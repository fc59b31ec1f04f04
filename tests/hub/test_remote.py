"""Remote code: folders that transformers opens by their own files, in a process where hybridkit cannot be imported."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint import opened, run_of
from torch.nn import functional as F

import hybridkit
from hybridkit.hub.export import export_run
from hybridkit.hub.family import FAMILY
from hybridkit.hub.importing import import_folder
from hybridkit.model.config import ModelConfig
from hybridkit.model.plan import compile_pattern
from hybridkit.recipe.files import read_recipe, shipped
from hybridkit.registry.registry import REGISTRY
from hybridkit.runs.run import Run
from hybridkit.system.errors import UserError

pytest.importorskip("transformers", reason="needs the hf extra")
pytestmark = pytest.mark.slow

PATTERNS: dict[str, tuple[str, dict[str, Any]]] = {
    "swax": ("[swa(kv_heads=2):stoch(4,9), mlstm(heads=2)]*2", {}),
    "windows": ("[swa:5, swa(theta=null):40, sa(head=6,theta=500), mlstm]", {"tie": True, "logit_cap": 20}),
    "options": (
        "[sa(qk_norm=true,gate=true,rope=.5), ffn(width=24,act=relu2,gated=false), ffn(width=8,clip=1,bias=true),"
        " swa(sinks=true,softcap=3,bias=true,qk_norm=projection):6,"
        " sa(scaling=yarn,factor=4,original=16,scale=.3), mlstm, ffn]", {"norm_eps": 1e-4, "embedding_scale": 2.5},
    ),
    "branches": (
        "[swa(kv_heads=2):7 | mlstm, ffn(act=gelu_tanh), sa(norm=post,out_scale=.5)]", {"branches": "mean_norm"},
    ),
    "delta": (
        "[gdn(heads=4,key_heads=2,head=8,value=6), gdn(allow_neg_eigval=true,gate=sigmoid,conv_bias=true,"
        "norm_eps=1e-6), gdn(gate=none), kda(head=8),"
        " kda(heads=2,head=8,value=6,lower_bound=-5,low_rank=false,gate_bias=true,conv=3)]", {"ffn": None},
    ),
    "scans": (
        "[mamba2(heads=4,head=8,state=8,groups=2), mamba2(gate_norm=none,in_scale=1.25,out_scale=.2,z_scale=.3,"
        "x_scale=.25,b_scale=.4,c_scale=.5,dt_scale=.6) | sa(kv_heads=2,out_scale=.9), mamba2(gate_norm=all,bias=true,"
        "conv_bias=false,dt_min=.01,dt_max=.5), rglru(width=48,heads=3,conv=3), swa(kv_heads=1,rope=.5,bias=out):20,"
        " conv(bias=true), rglru]", {"ffn": {"width": 16, "gate_scale": 0.8, "out_scale": 0.5}, "residual_scale": 0.5},
    ),
    "experts": (
        "[mla, moe(4,2,16,shared=1,shared_gate=true), mla(theta=null,q_rank=12,rank=10,rope_head=4,value_head=6,"
        "scale=.2), moe(8,3,8,shared=2,route=sigmoid,factor=2.5,correction=.001,groups=4,active_groups=2),"
        " mla(rope_head=0,theta=null), moe(4,1,8,act=relu2,gated=false,normalize=false), conv,"
        " moe(4,2,16,clip=2,bias=true)]",
        {"logit_scale": 0.5},
    ),
}  # fmt: skip
GROUPS = ("paper/", "published/", "convert/", "quickstart", "recall")
CHILD = Path(__file__).parents[1] / "helpers" / "opened_alone.py"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs and their exports, `NAME.run` and `NAME`."""
    place = tmp_path_factory.mktemp("remote")
    for name, (pattern, options) in PATTERNS.items():
        made = export_run(run_of(pattern, place / f"{name}.run", **options), place / name)
        assert made.family == "remote" and {"llama", "xlstm"} <= made.reasons.keys()
    return place


@pytest.fixture(scope="module")
def answers(folders: Path) -> dict[str, dict[str, torch.Tensor]]:
    environment = os.environ | {"HF_MODULES_CACHE": str(folders / "cache"), "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, "-I", str(CHILD), str(folders / "answers.pt"), *(str(folders / name) for name in PATTERNS)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folders / "answers.pt")


@pytest.mark.parametrize("name", PATTERNS)
def test_it_computes_what_the_run_does(name: str, folders: Path, answers: dict[str, dict[str, torch.Tensor]]) -> None:
    """fp32, 70 tokens in some layers: sums of some hundred products. A delta rule that may turn keys round magnifies
    rounding: there our own fp32 is 6e-5 from float64."""
    found, ours = answers[name], hybridkit.load(folders / f"{name}.run")
    logits, tolerance = ours(found["ids"])[0], 2e-4 if name == "delta" else 2e-5
    assert (found["logits"] - logits).abs().max() <= tolerance * logits.abs().max()
    assert (found["stepped"] - found["logits"]).abs().max() <= tolerance * logits.abs().max()
    assert (found["padded"] - found["logits"][:1, :67]).abs().max() <= tolerance * logits.abs().max()
    assert torch.equal(found["again"], found["logits"])
    wanted = F.cross_entropy(logits[:, :-1].flatten(0, 1), found["ids"][:, 1:].flatten())
    torch.testing.assert_close(found["loss"], wanted, rtol=tolerance, atol=0)
    context = ours.prefill(found["ids"][:1])
    assert found["greedy"][0].tolist() == [int(one) for one in ours.generate(context, max_tokens=24, temperature=0)]
    assert torch.equal(found["batch"], found["alone"]), "rows of other lengths change each other"
    assert found["text"].tolist() == [97, 98, 0, 0xC3, 0xA9, 256]


def test_states_stop_growing(answers: dict[str, dict[str, torch.Tensor]]) -> None:
    """After 500 tokens and after 2,020: in each of 2 groups a window of 9 and a memory, in fp32."""
    sizes = answers["states"]["bytes"].tolist()
    window, memory = 2 * 2 * 8 * 8 * 4, 2 * (8 * 16 + 8 + 1) * 4  # (k, v), heads, tokens, width; heads, (C, n, m)
    assert sizes == [2 * (window + memory)] * 2


@pytest.mark.parametrize("name", PATTERNS)
def test_it_comes_back(name: str, folders: Path, tmp_path: Path) -> None:
    back = Run(import_folder(folders / name, tmp_path / "back").run)
    run = Run(folders / f"{name}.run")
    assert hybridkit.load(back.path).plan.pattern == hybridkit.load(run.path).plan.pattern
    before, after = run.weights(), back.weights()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    ids = torch.randint(257, (1, 30))
    assert torch.equal(hybridkit.load(back.path)(ids)[0], hybridkit.load(run.path)(ids)[0])


def test_what_callers_of_other_models_ask_for_is_given_or_named(tmp_path: Path) -> None:
    from transformers import DynamicCache

    run = run_of("[swa:4 | mlstm, sa]", tmp_path / "run")
    export_run(run, tmp_path / "out", "remote")
    model, ours = opened(tmp_path / "out", trust_remote_code=True), hybridkit.load(run)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        found = model(ids, output_hidden_states=True)
        assert len(found.hidden_states) == len(ours.layers) + 1 and model(ids).hidden_states is None
        assert torch.equal(found.hidden_states[0], model.get_input_embeddings()(ids) * model.config.embedding_scale)
        assert torch.equal(model.lm_head(found.hidden_states[-1]), found.logits)
        first = model.model.layers[0](found.hidden_states[0], [None] * 2, seen=None, positions=torch.arange(12)[None])
        assert torch.equal(first[0], found.hidden_states[1])
        row = model(ids, return_dict=False, use_cache=False)
        assert type(row) is tuple and torch.equal(row[0], found.logits) and len(row) == 1
        base = model.model(ids, return_dict=False)
        assert type(base) is tuple and torch.equal(base[0], found.hidden_states[-1]) and base[1].seen == 12
        made = model.generate(ids, max_new_tokens=2, output_hidden_states=True, return_dict_in_generate=True)
        assert [len(one) for one in made.hidden_states] == [len(ours.layers) + 1] * 2
    with pytest.raises(TypeError, match="should be what a call with use_cache=True gave, not DynamicCache"):
        model(ids, past_key_values=DynamicCache())
    with pytest.raises(ValueError, match="output_attentions: the shares of attention are not kept"):
        model(ids, output_attentions=True)


def test_every_recipe_can_be_said() -> None:
    """By the files, whatever else could say it. Studies are spaces and hold no recipe."""
    remote, names = REGISTRY.get(FAMILY, "remote")(), [name for name in shipped() if name.startswith(GROUPS)]
    assert len(names) > 40
    for name in names:
        recipe = read_recipe(name).recipe
        remote.check(compile_pattern(recipe.pattern, ModelConfig.of(recipe, recipe.model.vocab or 257)))


def test_a_block_that_the_files_do_not_know_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = run_of("[swa:4, mlstm]", tmp_path / "run")
    monkeypatch.delitem(importlib.import_module("hybridkit.hub.families.remote").KNOWN, "mlstm")
    with pytest.raises(UserError, match="remote: mlstm: the modeling files know sa, swa, mla, gdn"):
        export_run(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("pattern", "family"), [("[swa:5, sa]*2", "ministral"), ("[swa(gate=true):5, sa(gate=true)]*2", "remote")]
)
def test_stacks_of_attention_keep_the_rules_of_vllms_transformers_backend(
    pattern: str, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its documented rules: one flattened row with positions and no cache, attention by a registered function that is
    told the layer and its window, keywords passed through to it, windows in `layer_types`, `AutoModel` in auto_map."""
    from transformers import AutoConfig, AutoModel
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    made = export_run(run_of(pattern, tmp_path / "run"), tmp_path / "out")
    assert made.family == family
    config = AutoConfig.from_pretrained(tmp_path / "out", trust_remote_code=True)
    types = ["sliding_attention", "full_attention"] * 2
    assert (config.layer_types, config.sliding_window, config.num_hidden_layers) == (types, 5, 4)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (4, 4, 8)
    asked = []

    def backend(module: Any, q: Any, k: Any, v: Any, mask: Any, **options: Any) -> Any:
        assert q.shape == (1, 4, 9, 8) and k.shape == v.shape and options["attention_instances"] == "given"
        asked.append((module.layer_idx, options["sliding_window"], options["scaling"]))
        return q.transpose(1, 2), None

    ALL_ATTENTION_FUNCTIONS.register("probe", backend)
    model = AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=True, attn_implementation="probe")
    assert model._supports_attention_backend
    places = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 7, 8]])
    model(torch.zeros_like(places), position_ids=places, use_cache=False, attention_instances="given")
    assert asked == [(0, 5, 8**-0.5), (1, None, 8**-0.5), (2, 5, 8**-0.5), (3, None, 8**-0.5)]


def test_stacks_that_vllms_backend_would_compute_wrongly_are_named() -> None:
    """It holds keys and values by itself, of one size and with one window, and calls the model without any state."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    from hybridkit.hub.modeling.configuration_hybridkit import HybridkitConfig
    from hybridkit.hub.modeling.modeling_hybridkit import HybridkitModel

    remote = REGISTRY.get(FAMILY, "remote")()
    ALL_ATTENTION_FUNCTIONS.register("vllm", lambda *_: None)  # as the server does before it builds a model
    for pattern, said in (
        ("[swa:8, mlstm]", "mlstm"), ("[swa:8 | sa]", "side by side"), ("[swa:8, swa:9]", "several sizes"),
        ("sa(sinks=true)", "sinks"), ("sa(softcap=3)", "softcap"), ("[sa, sa(head=4)]", "heads differ"),
        ("[sa, moe(4,2,16)]", "moe"), ("[swa:8, sa(gate=true)]", None),
    ):  # fmt: skip
        plan = hybridkit.build(pattern, width=32, heads=4, logit_cap=20).plan
        config = HybridkitConfig(**remote.config(plan))
        assert config.final_logit_softcapping == 20  # what the server asks for, in place of our head
        config._attn_implementation = "vllm"
        if said:
            with pytest.raises(ValueError, match=f"vLLM's Transformers backend has no state for this stack.*{said}"):
                HybridkitModel(config)
        else:
            HybridkitModel(config)
