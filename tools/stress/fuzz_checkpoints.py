"""Random configs of every class that import reads: the same logits as transformers, or a refusal that names the field.

    OMP_NUM_THREADS=1 python tools/stress/fuzz_checkpoints.py --cases 1000 --seed 0

Each case draws the config.json of a small model, of the classes in turn (or of --families), and changes, adds or drops
some of its fields. transformers builds the model that it says, with random weights; what it cannot build is left out.
The folder is imported, the logits of both models on 2 x 40 tokens are compared in fp32; the run is exported, opened by
transformers, compared again, also on 20 tokens that it decodes with its cache, and imported again: same pattern, same
bits (norms that multiply by 1 + w: 2^-24).

A case fails if a difference is more than 1e-4 of the largest logit (1e-3 where a recurrence magnifies rounding), or if
anything but the project's own errors is raised. Failing config.json files are written to --keep, with what was found.
Exit code 1 if any case failed.
"""

import argparse
import contextlib
import json
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
from checkpoint import FROM_ZERO, opened, save  # noqa: E402
from fuzz_configs import DRAWS, draw  # noqa: E402
from fuzz_hybrid_configs import HYBRIDS  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402
from transformers.utils.logging import disable_progress_bar  # noqa: E402

import hybridkit  # noqa: E402
from hybridkit.hub.export import export_run  # noqa: E402
from hybridkit.hub.importing import import_folder  # noqa: E402
from hybridkit.runs.run import Run  # noqa: E402
from hybridkit.system.errors import UserError  # noqa: E402

CLASSES = {**DRAWS, **HYBRIDS}
TOLERANCE, MAGNIFIED = 1e-4, 1e-3  # of the largest logit
EAGER = {"attn_implementation": "eager", "experts_implementation": "eager"}  # of any sizes
MAGNIFYING = ("kimi_linear", "olmo_hybrid", "qwen3_next", "xlstm")  # delta rules, and sums in chunks of other sizes
ROUNDED = 2**-24  # of 1 + w, for weights below 2


class Left(Exception):
    """transformers cannot build what the config says."""


def main() -> int:
    """Run all cases and print a row for each class."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--families", default=",".join(CLASSES))
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="folder for configs that fail")
    parser.add_argument("--reasons", action="store_true", help="print what was refused, by message")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    disable_progress_bar()
    names, reasons, worst = options.families.split(","), Counter[str](), dict.fromkeys(CLASSES, 0.0)
    counts = {name: Counter[str]() for name in names}
    with contextlib.suppress(KeyboardInterrupt):  # the table is printed all the same
        for number in range(options.cases):
            name = names[number % len(names)]
            raw = draw(CLASSES[name], random.Random(f"{options.seed} {number}"))
            with tempfile.TemporaryDirectory() as folder:
                outcome, said = _outcome(raw, Path(folder), number, worst)
            counts[name][outcome] += 1
            reasons[f"{outcome}: {name}: {said}"] += outcome != "failed"
            if outcome == "failed":
                _put(options.keep, f"{name}-{options.seed}-{number}", raw, said)
    _print(counts, worst, reasons if options.reasons else Counter[str]())
    return 1 if any(count["failed"] for count in counts.values()) else 0


def _outcome(raw: dict[str, Any], place: Path, number: int, worst: dict[str, float]) -> tuple[str, str]:
    """What became of a case, and why."""
    try:
        worst[raw["model_type"]] = max(worst[raw["model_type"]], _compared(raw, place, number))
    except Left as left:
        return "left out", repr(left.__cause__)
    except UserError as error:
        text = str(error).replace(str(place), "")
        return ("refused", text) if text else ("failed", "no message")
    except Exception:
        return "failed", traceback.format_exc()
    return "equal", ""


def _compared(raw: dict[str, Any], place: Path, number: int) -> float:
    """The largest difference, as a share of the largest logit."""
    theirs = _instance(raw, place, number)
    save(theirs, place / "theirs")
    (place / "theirs/config.json").write_text(json.dumps(raw), encoding="utf-8")
    ids = torch.randint(257, (2, 40), generator=torch.Generator().manual_seed(number))
    wanted = logits(theirs, ids)
    run = import_folder(place / "theirs", place / "run").run
    ours = hybridkit.load(run)
    with torch.no_grad():
        found = [("imported", ours(ids)[0])]
    exported = export_run(run, place / "out")
    if exported.family != "remote":
        theirs = opened(place / "out", **EAGER)
        found.append(("exported", logits(theirs, ids)))
        found.append(("exported, sdpa", logits(opened(place / "out", experts_implementation="eager"), ids)))
    largest = MAGNIFIED if raw["model_type"] in MAGNIFYING else TOLERANCE
    shares = {name: float((made - wanted).abs().max() / wanted.abs().max()) for name, made in found}
    if exported.family != "remote":
        shares["exported, from the cache"] = share_decoded(theirs, ours, ids)
    if wrong := {name: share for name, share in shares.items() if not share <= largest}:
        raise AssertionError(f"{wrong}: {ours.plan.pattern} as {exported.family}")
    check_back(run, import_folder(place / "out", place / "back").run, exported.family)
    return max(shares.values())


def _instance(raw: dict[str, Any], place: Path, number: int) -> nn.Module:
    """transformers' model of a config.json, every path of which carries a signal. Raises Left."""
    (place / "said").mkdir()
    (place / "said/config.json").write_text(json.dumps(raw), encoding="utf-8")
    torch.manual_seed(number)
    try:
        config = AutoConfig.from_pretrained(place / "said")
        model = AutoModelForCausalLM.from_config(config, **EAGER).float().eval()
        for path, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if isinstance(tensor, nn.Parameter) or "correction" in path:
                zero = model.config.model_type in ZEROS and "norm" in path and "linear_attn" not in path
                one = tensor.dim() == 1
                mean, std = float(one and not zero), 0.3 if one else tensor.shape[-1] ** -0.5
                nn.init.normal_(tensor, mean=mean, std=std)
        logits(model, torch.zeros((1, 40), dtype=torch.long))
    except Exception as error:  # of any kind
        raise Left from error
    return model


ZEROS = ("gemma3_text", "qwen3_next", "recurrent_gemma")
assert len(ZEROS) == len(FROM_ZERO)


def logits(model: nn.Module, ids: Tensor) -> Tensor:
    """Of transformers' or our model (B, T, V), without a cache."""
    with torch.no_grad():
        found: Tensor = model(ids, use_cache=False).logits
    return found


def decoded(model: nn.Module, ids: Tensor, tokens: int = 20) -> tuple[Tensor, Tensor]:
    """Ids (B, T + tokens) and the logits of the new ones, by `generate` with its cache."""
    made = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, eos_token_id=None,
        return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    return made.sequences, torch.stack(made.logits, 1)


def share_decoded(model: nn.Module, ours: nn.Module, ids: Tensor) -> float:
    """The largest difference of logits from the cache and the run's, as a share of the largest logit."""
    with torch.no_grad():
        sequences, found = decoded(model, ids[:, :20])
        wanted = ours(sequences)[0][:, 19:-1]
    return float((found - wanted).abs().max() / wanted.abs().max())


def check_back(run: Path, back: Path, family: str) -> None:
    """The same pattern and the same bits. A tied model whose rows are scaled is written as an untied one."""
    said, again = (hybridkit.load(one).plan.pattern for one in (run, back))
    assert said == again, f"{said} came back from {family} as {again}"
    before, after = Run(run).weights(), Run(back).weights()
    if "head.weight" in after.keys() - before.keys():
        return
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        near = family in ZEROS and "norm" in name and (tensor - after[name]).abs().max() <= ROUNDED
        assert near or torch.equal(tensor, after[name]), f"{name} came back changed"


def _put(folder: Path, name: str, raw: dict[str, Any], said: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(raw, indent=1), encoding="utf-8")
    (folder / f"{name}.txt").write_text(said, encoding="utf-8")
    print(f"{name}: {said.strip().splitlines()[-1][:300]}", file=sys.stderr, flush=True)


def _print(counts: dict[str, Counter[str]], worst: dict[str, float], reasons: Counter[str]) -> None:
    kinds = ("equal", "refused", "left out", "failed")
    print("| class | equal | refused | left out | failed | largest difference |\n|---|---|---|---|---|---|")
    for name, count in counts.items():
        print(f"| {name} | {' | '.join(str(count[kind]) for kind in kinds)} | {worst[name]:.1e} |")
    for reason, count in reasons.most_common():
        print(f"{count:5} {reason[:200]}")


if __name__ == "__main__":
    sys.exit(main())
