"""Stacks that a class of transformers decodes, with its cache, as another function than its logits: remote code."""

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint import LLAMA, greedy, instance, opened, run_of, save
from command_line import hybridkit as verb

import hybridkit
from hybridkit.hub.described import compile_recipe
from hybridkit.hub.export import choose_family, export_run
from hybridkit.hub.families.recurrent_gemma import rows
from hybridkit.hub.importing import import_folder
from hybridkit.recipe.schema import Recipe

pytest.importorskip("transformers", reason="needs the hf extra")
GEMMA: dict[str, Any] = {"norm": "both", "ffn": {"act": "gelu_tanh"}, "embedding_scale": 32**0.5}
MOE = "moe(4,2,16,clip=7,bias=true)"
OSS = f"[swa(sinks=true,bias=true):{{}}, {MOE}, sa(sinks=true,bias=true), {MOE}]"
NEMOTRON = "[mamba2(head=8,state=8{}), sa(theta=null), ffn(act=relu2,gated=false)]"
CASES: dict[str, tuple[str, str, str, dict[str, Any]]] = {  # a pattern, what fails, what does not, the model
    "mistral": ("swa:{}*2", "1", "2", {}),
    "ministral": ("[swa:{}, sa]", "1", "2", {}),
    "qwen3": ("[swa(qk_norm=true):{}, sa(qk_norm=true)]", "1", "2", {}),
    "smollm3": ("[swa:{}, sa(theta=null)]", "1", "2", {}),
    "olmo3": ("[swa(qk_norm=projection):{}, sa(qk_norm=projection)]", "1", "2", {"norm": "post"}),
    "gemma3_text": ("[swa(qk_norm=true):{}, sa(qk_norm=true,theta=1000000)]", "1", "2", GEMMA),
    "gpt_oss": (OSS, "1", "2", {"ffn": None}),
    "mamba2": ("mamba2(head=8,state=8{})*2", ",dt_max=.3", "", {"ffn": None, "norm_eps": 1e-5}),
    "falcon_h1": ("mamba2(head=8,state=8,gate_norm=none{}) | sa", ",dt_max=.3", "", {}),
    "granitemoehybrid": ("[mamba2(head=8,state=8{}), sa(theta=null)]", ",dt_min=.3", "", {"norm_eps": 1e-5}),
    "nemotron_h": (NEMOTRON, ",dt_min=.3", "", {"ffn": None, "norm_eps": 1e-5}),
    "granitemoehybrid, no attention": (
        "[mamba2(head=8,state=8), {}]",
        "mamba2(head=8,state=8)",
        "sa(theta=null)",
        {"norm_eps": 1e-5},
    ),
    "nemotron_h, no attention": (
        "[mamba2(head=8,state=8){}, ffn(act=relu2,gated=false)]",
        "",
        ", sa(theta=null)",
        {"ffn": None, "norm_eps": 1e-5},
    ),
    "xlstm": ("mlstm(heads={})*2", "4", "1", {"logit_cap": 30.0}),
}


def wide(family: str, argument: str) -> dict[str, int]:
    return {"width": 192 if argument == "4" else 128} if family == "xlstm" else {"width": 32}


@pytest.mark.parametrize("family", CASES)
def test_what_transformers_decodes_otherwise_goes_out_as_remote_code(family: str) -> None:
    pattern, wrong, right, model = CASES[family]
    family = family.partition(",")[0]
    for argument in (wrong, right):
        sizes = {**wide(family, argument), "heads": 4, "vocab": 257}
        said = {"pattern": pattern.format(argument), "model": {**sizes, **model}}
        chosen, reasons = choose_family(compile_recipe(Recipe.model_validate(said)))
        assert chosen.name() == ("remote" if argument == wrong else family), reasons
        if argument == wrong:
            assert "cache" in reasons[family]


@pytest.mark.slow
@pytest.mark.parametrize("family", CASES)
def test_what_is_exported_decodes_as_the_run(family: str, tmp_path: Path) -> None:
    """32 greedy tokens from the cache, and again by logits without one."""
    pattern, wrong, right, model = CASES[family]
    for argument in (wrong, right):
        run = run_of(pattern.format(argument), tmp_path / f"run{argument == right}", **wide(family, argument), **model)
        export_run(run, place := tmp_path / f"out{argument == right}")
        ours, theirs = hybridkit.load(run), opened(place, trust_remote_code=True)
        ids = torch.randint(256, (1, 20), generator=torch.Generator().manual_seed(1))
        wanted = [int(one) for one in ours.generate(ours.prefill(ids), max_tokens=32, temperature=0)]
        assert greedy(theirs, ids, 32) == wanted
        with torch.no_grad():
            logits = theirs(torch.cat([ids, torch.tensor([wanted])], 1), use_cache=False).logits
        assert logits[0, 19:-1].argmax(-1).tolist() == wanted


@pytest.mark.slow
def test_a_checkpoint_that_transformers_decodes_otherwise_is_imported_with_a_note(tmp_path: Path) -> None:
    for window, count in ((1, 1), (2, 0)):
        theirs = instance("Mistral", **LLAMA, num_hidden_layers=1, sliding_window=window)
        notes = import_folder(save(theirs, tmp_path / f"theirs{window}"), tmp_path / f"run{window}").notes
        assert sum("a window of 1" in note for note in notes) == len(notes) == count


@pytest.mark.slow
def test_a_class_that_reads_padding_is_said(tmp_path: Path) -> None:
    """Left-padded rows have the logits of a class that ignores the attention_mask; those of others do not change."""
    for name, pattern, options in (
        ("xlstm", "mlstm*2", {"width": 128, "heads": 2, "logit_cap": 30.0}), ("llama", "sa*2", {}),
        ("recurrent_gemma", "[rglru, swa(kv_heads=1,rope=.5,bias=out):5]",
         {"ffn": {"act": "gelu_tanh", "bias": True}, "logit_cap": 30.0, "embedding_scale": rows(32)}),
    ):  # fmt: skip
        run_of(pattern, tmp_path / f"{name}.run", **options)
        done = verb("export", f"{name}.run", name, cwd=tmp_path)
        assert f"written as {name}" in done.stdout, done.stdout
        model, ids = opened(tmp_path / name), torch.arange(40, 60)[None]
        padded, mask = torch.nn.functional.pad(ids, (6, 0)), torch.nn.functional.pad(torch.ones_like(ids), (6, 0))
        with torch.no_grad():
            alone, found = model(ids).logits, model(padded, attention_mask=mask).logits[:, 6:]
        reads = bool((alone - found).abs().max() > 1e-4 * alone.abs().max())
        card = (tmp_path / name / "README.md").read_text(encoding="utf-8")
        assert reads == (name != "llama") == ("note: Do not pad" in done.stdout) == ("Do not pad" in card)
