"""Random stacks near those of every family, exported: the class that is chosen computes the same logits as the run.

    OMP_NUM_THREADS=1 python tools/stress/fuzz_exports.py --cases 500 --seed 0

Each case takes the pattern of a family, and changes arguments of its blocks and options of the model. The run is
exported as `--format hf` chooses, opened by transformers (remote code too), compared in fp32 on 2 x 40 tokens and on 20
more that it decodes with its cache, and imported again: same pattern, same bits (norms that multiply by 1 + w: 2^-24).
A stack that cannot be built is left out. Exit code 1 if a case failed.
"""

import argparse
import logging
import os
import random
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "helpers"))
warnings.simplefilter("ignore")

import torch  # noqa: E402
from checkpoint import opened, run_of  # noqa: E402
from fuzz_checkpoints import EAGER, MAGNIFIED, TOLERANCE, check_back, logits, share_decoded  # noqa: E402
from transformers.utils.logging import disable_progress_bar  # noqa: E402

import hybridkit  # noqa: E402
from hybridkit.hub.export import export_run  # noqa: E402
from hybridkit.hub.families.recurrent_gemma import rows  # noqa: E402
from hybridkit.hub.importing import import_folder  # noqa: E402
from hybridkit.system.errors import UserError  # noqa: E402

STACKS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "llama": (["sa()", "sa()"], {}),
    "mistral": (["swa():5", "swa():5"], {}),
    "ministral": (["swa():5", "sa()", "swa():5"], {}),
    "qwen3": (["swa(qk_norm=true):5", "sa(qk_norm=true)"], {}),
    "smollm3": (["sa()", "sa(theta=null)", "swa():7"], {"tie": True}),
    "olmo3": (["swa(qk_norm=projection):5", "sa(qk_norm=projection)"], {"norm": "post"}),
    "gemma3": (
        ["swa(qk_norm=true):5", "sa(qk_norm=true,theta=1000000)"],
        {"norm": "both", "ffn": {"act": "gelu_tanh"}, "embedding_scale": 32**0.5},
    ),
    "granite": (["sa(scale=.2)", "sa(scale=.2)"], {"embedding_scale": 3.0, "residual_scale": 0.5, "logit_scale": 0.25}),
    "lfm2": (["conv()", "sa(qk_norm=true)"], {}),
    "olmo_hybrid": (
        ["gdn(allow_neg_eigval=true)", "ffn()", "sa(qk_norm=projection,norm=post)", "ffn(norm=post)"], {"ffn": None},
    ),
    "qwen3_next": (["gdn()", "moe(4,2,16,shared=1,shared_gate=true)", "sa(gate=true,qk_norm=true,rope=.25)",
                    "moe(4,2,16,shared=1,shared_gate=true)"], {"ffn": None}),
    "gpt_oss": (["swa(sinks=true,bias=true):5", "moe(4,2,16,clip=7,bias=true)", "sa(sinks=true,bias=true)",
                 "moe(4,2,16,clip=7,bias=true)"], {"ffn": None}),
    "kimi": (["kda()", "ffn()", "mla(theta=null)", "moe(4,2,16,shared=1,route=sigmoid,correction=.001,aux=0)"],
             {"ffn": None}),
    "nemotron": (["mamba2(head=8,state=8)", "ffn(act=relu2,gated=false)", "sa(theta=null)",
                  "ffn(act=relu2,gated=false)"], {"ffn": None, "norm_eps": 1e-5}),
    "falcon": (["mamba2(head=8,state=8,gate_norm=none) | sa()", "mamba2(head=8,state=8,gate_norm=none) | sa()"], {}),
    "granite4": (["mamba2(head=8,state=8)", "sa(theta=null,scale=.2)"],
                 {"norm_eps": 1e-5, "ffn": {"block": "moe", "experts": 4, "active": 2, "width": 16, "shared": 2}}),
    "rgemma": (["rglru()", "swa(kv_heads=1,rope=.5,bias=out):5"],
               {"ffn": {"act": "gelu_tanh", "bias": True}, "logit_cap": 30.0, "tie": True,
                "embedding_scale": rows(32)}),
    "mamba2": (["mamba2(head=8,state=8)", "mamba2(head=8,state=8)"], {"ffn": None, "norm_eps": 1e-5}),
    "xlstm": (["mlstm(heads=1)", "mlstm(heads=1)"], {"logit_cap": 30.0, "width": 128}),
}  # fmt: skip
ATTENTION = (
    "kv_heads=1", "kv_heads=2", "head=6", "head=10", "theta=100", "theta=null", "rope=.5", "scaling=linear,factor=2",
    "scaling=yarn,factor=4,original=16", "scaling=yarn,factor=4,original=16,truncate=false,fast=8", "qk_norm=true",
    "scaling=yarn,factor=4,original=16,magnitude=1.3", "scaling=llama3,factor=8,original=16,slow=.5", "sinks=true",
    "qk_norm=projection", "gate=true", "softcap=3", "scale=.3", "bias=true", "bias=out", "bias=qkv", "norm=post",
    "norm=both", "in_scale=.5", "out_scale=2",
)  # fmt: skip
DELTA = (
    "heads=2", "head=6", "value=6", "value=12", "conv=2", "conv_bias=true", "norm_eps=.1", "norm=post", "out_scale=.5",
)  # fmt: skip
HIDDEN = ("act=relu2", "act=gelu_tanh", "gated=false", "bias=true", "clip=2", "gate_scale=.5", "out_scale=2")
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "sa": ATTENTION,
    "swa": (*ATTENTION, ":1", ":13", ":stoch(3,9,p=.5)"),
    "mla": ("theta=100", "q_rank=12", "rank=10", "rope_head=4", "value_head=6", "scale=.2", "head=4", "norm=post"),
    "mlstm": ("heads=2", "norm=post", "out_scale=.5"),
    "gdn": (*DELTA, "key_heads=2", "allow_neg_eigval=true", "gate=sigmoid", "gate=none"),
    "kda": (*DELTA, "lower_bound=-5", "low_rank=false", "gate_bias=true"),
    "mamba2": ("heads=4", "head=4", "state=5", "groups=2", "conv=2", "gate_norm=none", "gate_norm=all", "bias=true",
               "conv_bias=false", "dt_min=.5", "dt_max=1", "z_scale=.3", "x_scale=2", "in_scale=1.5", "out_scale=.2"),
    "rglru": ("width=48", "heads=2", "conv=2", "norm=post"),
    "conv": ("kernel_size=2", "kernel_size=5", "bias=true", "out_scale=.5"),
    "ffn": ("width=20", *HIDDEN),
    "moe": ("shared=2", "shared=0", "normalize=false", "factor=2", "groups=2,active_groups=1", "route=sigmoid",
            "aux=0", *HIDDEN),
}  # fmt: skip
OPTIONS: dict[str, tuple[Any, ...]] = {
    "tie": (True, False), "norm_eps": (1e-5, 0.1), "norm": ("pre", "post", "both"), "logit_cap": (None, 4.0),
    "embedding_scale": (1.0, 2.5, 7), "residual_scale": (1.0, 0.3), "logit_scale": (1.0, 0.5), "vocab": (257, 261),
    "heads": (2, 4), "width": (32, 40), "branches": ("sum", "mean_norm"),
}  # fmt: skip


def main() -> int:
    """Run all cases and print a row for each stack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    disable_progress_bar()
    counts = {name: Counter[str]() for name in STACKS}
    for number in range(options.cases):
        name = list(STACKS)[number % len(STACKS)]
        pattern, model = _draw(name, random.Random(f"{options.seed} {number}"))
        with tempfile.TemporaryDirectory() as folder:
            outcome, said = _outcome(pattern, model, Path(folder))
        counts[name][outcome] += 1
        if outcome == "failed":
            print(
                f"{number} {name}: {pattern} {model}: {said.strip().splitlines()[-1][:300]}",
                file=sys.stderr,
                flush=True,
            )
    print("| stack | equal, by the family of the export | left out | failed |\n|---|---|---|---|")
    for name, count in counts.items():
        families = {one: much for one, much in count.most_common() if one not in ("left out", "failed")}
        said = ", ".join(f"{one} {much}" for one, much in families.items())
        print(f"| {name} | {said} | {count['left out']} | {count['failed']} |")
    return 1 if any(count["failed"] for count in counts.values()) else 0


def _draw(name: str, rng: random.Random) -> tuple[str, dict[str, Any]]:
    """A pattern, and a `model:` section."""
    entries, model = STACKS[name]
    entries, model = [*entries], {**model}
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        if rng.random() < 0.3:
            option = rng.choice([*OPTIONS])
            model[option] = rng.choice(OPTIONS[option])
            continue
        block = rng.choice([block for entry in entries for block in _blocks(entry)])
        argument, everywhere = rng.choice(ARGUMENTS[block]), rng.random() < 0.7
        places = [n for n, entry in enumerate(entries) if block in _blocks(entry)]
        for place in places if everywhere else [rng.choice(places)]:
            entries[place] = " | ".join(_with(call, block, argument) for call in entries[place].split(" | "))
    if rng.random() < 0.3:
        rng.shuffle(entries)
    return f"[{', '.join(entries)}]", model


def _blocks(entry: str) -> list[str]:
    return [call.partition("(")[0] for call in entry.split(" | ")]


def _with(call: str, block: str, argument: str) -> str:
    """A call with an argument more, in the place of one of the same name; `:WINDOW` replaces the window."""
    if not call.startswith(f"{block}("):
        return call
    if argument.startswith(":"):
        return call.rpartition(":")[0] + argument
    head, _, rest = call.partition("(")
    inside, _, window = rest.partition(")")
    names = {one.partition("=")[0] for one in argument.split(",")}
    kept = [one for one in inside.split(",") if one and one.partition("=")[0] not in names]
    return f"{head}({','.join([*kept, argument])}){window}"


def _outcome(pattern: str, model: dict[str, Any], place: Path) -> tuple[str, str]:
    """The family of the export, or that the case is left out or failed, and why."""
    try:
        run = run_of(pattern, place / "run", **model)
    except (UserError, ValueError) as error:
        return "left out", str(error)
    try:
        return _compared(run, place), ""
    except Exception:
        return "failed", traceback.format_exc()


def _compared(run: Path, place: Path) -> str:
    made = export_run(run, place / "out")
    ours, ids = hybridkit.load(run), torch.randint(257, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = ours(ids)[0]
    options = {"trust_remote_code": True} if made.family == "remote" else EAGER
    theirs = opened(place / "out", **options)
    share = float((logits(theirs, ids) - wanted).abs().max() / wanted.abs().max())
    share = max(share, share_decoded(theirs, ours, ids))
    delta = any(block in ours.plan.pattern for block in ("gdn", "kda", "mlstm"))
    assert share <= (MAGNIFIED if delta else TOLERANCE), f"{share:.1e} as {made.family}"
    check_back(run, import_folder(place / "out", place / "back").run, made.family)
    return made.family


if __name__ == "__main__":
    sys.exit(main())
