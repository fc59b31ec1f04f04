"""A transformer's conversion in miniature: converted, from scratch on as many tokens, and without a stage.

    python tools/reproduce/convert.py --folder runs/convert --seeds 0,1,2
    python tools/reproduce/convert.py --folder runs/convert --table

Prints nats a token of held-out text and, of every arm, (scratch - converted) / (scratch - teacher); then recall: the
share of bytes that are predicted when a list of distinct ones in random order comes again after so many tokens,
with 95 % intervals. Students are trained on 256 tokens at first, and on 1024 in the last stage.
Runs that the folder already holds go on, or are not trained again; `--table` measures what there is.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hybridkit.convert.conversion import run_conversion
from hybridkit.convert.keep_measures import repeated
from hybridkit.data.feed import IGNORED, Batch
from hybridkit.data.recipe_data import held_out_batches
from hybridkit.evaluation.confidence import clustered
from hybridkit.evaluation.perplexity import perplexity
from hybridkit.evaluation.scoring import ReadOptions, score_tokens
from hybridkit.model.loading import load_model
from hybridkit.runs.run import Run, load_recipe
from hybridkit.system.files import write_whole
from hybridkit.training.reporter import Silent
from hybridkit.training.trainer import run_training

STUDENTS = ("swax", "gdn")
LENGTHS = (256, 1024)  # of rows of held-out text
GAPS = (0, 128, 512, 2048)  # tokens of text between a list of bytes and its copy
TOKENS, LISTS = 2**16, 48  # that are measured
NO_FIRST = "convert.stages=[{loss: kl, steps: 250, lr: 1e-3}, {loss: ce, steps: 50, sequence: 1024, lr: 3e-4}]"
NO_SECOND = (
    "convert.stages=[{loss: hidden, steps: 100, lr: 3e-3}, {loss: ce, steps: 150, lr: 1e-3},"
    " {loss: ce, name: long, steps: 50, sequence: 1024, lr: 3e-4}]"
)
WINDOWS = {"short windows": "32", "long windows": "256"}  # of the last stage, beside stochastic ones


class Arm(NamedTuple):
    """A run of the comparison."""

    name: str
    student: str
    seed: int

    def folder(self, root: Path) -> Path:
        return root / f"{self.student}-{self.name.replace(' ', '-')}-{self.seed}"


def arms(seeds: list[int]) -> list[Arm]:
    """All runs behind the teacher's, in the order in which they are made."""
    first, *others = seeds
    found = [Arm(name, student, first) for student in STUDENTS for name in ("converted", "scratch")]
    found += [Arm(name, "swax", first) for name in ("no stage 1", "no stage 2", *WINDOWS)]
    return found + [Arm(name, s, seed) for seed in others for s in STUDENTS for name in ("converted", "scratch")]


def make(arm: Arm, root: Path, changes: list[str]) -> None:
    """Train an arm, or go on with it."""
    seed, folder = f"train.seed={arm.seed}", arm.folder(root)
    if arm.name in WINDOWS:  # the last stage is an ordinary run, which starts from the one before it
        stage = Run(Arm("converted", arm.student, arm.seed).folder(root)).recipe_file
        own = [f"pattern=[swa:{WINDOWS[arm.name]}, mlstm]*4"]
        run_training(load_recipe(stage, own), folder, resume=True, reporter=Silent())
        return
    own = {"no stage 1": [NO_FIRST], "no stage 2": [NO_SECOND]}.get(arm.name, [])
    loaded = load_recipe(f"convert/{arm.student}", [seed, *own, *changes])
    if arm.name == "scratch":
        run_training(loaded, folder, resume=True, reporter=Silent())
    else:
        run_conversion(str(root / "teacher"), loaded, folder, resume=True, reporter=Silent)


def measured(run: Run, kept: Path) -> dict[str, Any]:
    """Loss by row length, and recall by length of a copied text; kept in a file."""
    if kept.is_file():
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return found
    model, data, reading = load_model(run.path), run.recipe.recipe.data, ReadOptions(None)

    def rows(length: int, tokens: int) -> Iterator[Any]:
        together = max(1, 4096 // length)
        return islice(held_out_batches(data, length, together), tokens // (together * length))

    losses, recall = {}, {}
    for length in LENGTHS:
        text = perplexity(model, rows(length, TOKENS), reading)
        losses[str(length)] = text.nats / text.tokens
    texts = next(held_out_batches(data, max(GAPS), LISTS)).tokens
    listed = repeated(texts)
    for gap in GAPS:
        hits: list[list[float]] = []
        for row in range(0, len(texts), 8):
            batch = _apart(listed, texts, gap, slice(row, row + 8))
            right, asked = score_tokens(model, batch, reading).right, batch.targets != IGNORED
            hits += [[float(one) for one in line[own]] for line, own in zip(right, asked, strict=True)]
        recall[str(gap)] = clustered(hits)
    found = {"loss": losses, "recall": recall}
    write_whole(kept, json.dumps(found).encode())
    return found


def _apart(listed: Batch, texts: Tensor, gap: int, rows: slice) -> Batch:
    """Lists and their copies with some text between them: only tokens of the copies count."""
    half = listed.tokens.shape[1] // 2
    first, second = listed.tokens[rows].split(half, dim=1)
    targets = torch.full((len(first), half + gap), IGNORED)
    return Batch(
        torch.cat([first, texts[rows, :gap], second], 1), torch.cat([targets, listed.targets[rows, half:]], 1), None, 0
    )


def finished(run: Run) -> bool:
    """Whether a run has made its last step."""
    checkpoint = run.newest().checkpoint if run.recipe_file.is_file() else None
    return checkpoint is not None and checkpoint.step >= run.recipe.recipe.train.steps


def table(root: Path, seeds: list[int]) -> None:
    """Print what the finished runs give."""
    places = {("teacher", "", 0): root / "teacher"} | {arm: arm.folder(root) for arm in arms(seeds)}
    found = {key: measured(Run(path), path / "measured.json") for key, path in places.items() if finished(Run(path))}
    teacher = found.get(("teacher", "", 0))
    print("| arm | seed | nats, rows of 256 | rows of 1024 | gap closed at 256 | at 1024 | recall in % "
          f"over {', '.join(map(str, GAPS))} tokens |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for key, one in found.items():
        name, student, seed = key
        scratch = found.get(Arm("scratch", student, seed))
        closed = ["-", "-"]
        if teacher and scratch and name not in ("teacher", "scratch"):
            closed = [_closed(scratch, one, teacher, str(length)) for length in LENGTHS]
        losses = [f"{one['loss'][str(length)]:.4f}" for length in LENGTHS]
        recall = [f"{mean:.1f} [{low:.1f}, {high:.1f}]" for mean, low, high in one["recall"].values()]
        print("| " + " | ".join([f"{student} {name}", str(seed), *losses, *closed, ", ".join(recall)]) + " |")


def _closed(scratch: dict[str, Any], one: dict[str, Any], teacher: dict[str, Any], length: str) -> str:
    """No share where the teacher is worse than a model from scratch, as beyond its training length."""
    worst, own, best = (model["loss"][length] for model in (scratch, one, teacher))
    return f"{(worst - own) / (worst - best):.2f}" if best < worst else "-"


def main() -> int:
    """Train what is missing and print the table after every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("changes", nargs="*", help="key=value, for all students")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="measure what there is, and train nothing")
    given = parser.parse_intermixed_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    if given.table:
        table(given.folder, seeds)
        return 0
    run_training(load_recipe("convert/teacher"), given.folder / "teacher", resume=True, reporter=Silent())
    for arm in arms(seeds):
        make(arm, given.folder, given.changes)
        table(given.folder, seeds)
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
