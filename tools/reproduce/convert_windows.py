"""Study F of docs/findings.md: which windows in a conversion's last stage leave the memory at work?

    python tools/reproduce/convert_windows.py --folder runs/convert-windows --seeds 60,61,62,63,64
    python tools/reproduce/convert_windows.py --folder runs/convert-windows --table [--plot FILE.svg]

Every seed has its own teacher (recipes/convert/recall-teacher.yaml). Its arms share the first two stages, but for the
one with long windows in all of them. Prints recall in percent, means over seeds with half the 95 % interval, and the
differences from long windows in the last stage, paired by seed. Runs that the folder already holds go on, or are not
trained again; `--table` measures what there is, and `--plot` draws far recall over the gap.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from hybridkit.convert.conversion import run_conversion
from hybridkit.data.recipe_data import feed_source, held_out_batches
from hybridkit.data.sources.recall import RecallTask
from hybridkit.evaluation.confidence import clustered, mean_score
from hybridkit.evaluation.recall import far, near
from hybridkit.evaluation.scoring import ReadOptions
from hybridkit.model.loading import load_model
from hybridkit.report.plot_style import by_last, in_style, legend, new_figure, series, token_axis
from hybridkit.runs.run import Run, load_recipe
from hybridkit.search.trials import half_interval
from hybridkit.system.files import write_whole
from hybridkit.training.reporter import Silent
from hybridkit.training.trainer import run_training

LAST_WINDOWS = {"long": "swa:64", "short": "swa:8"}  # of the last stage, beside stochastic ones
ARMS = ("long", "short", "stochastic", "long in all stages", "from scratch")
Found = dict[str, dict[int, dict[str, float]]]  # arm, seed, column
REFERENCE, TEST_WINDOW = "long", 64
GAPS, SAMPLES = (8, 64, 128, 256, 512), 256
NEAR = "near, 64 to 127"


def pattern(mixer: str) -> str:
    """The student's pattern with a local attention."""
    return f"pattern=[conv, {mixer}, mlstm]*2"


def folder_of(root: Path, arm: str, seed: int) -> Path:
    """The run of an arm."""
    return root / f"{arm.replace(' ', '-')}-{seed}"


def make(root: Path, arm: str, seed: int) -> None:
    """Train an arm, or go on with it."""
    own, folder = f"train.seed={seed}", folder_of(root, arm, seed)
    if arm == "teacher":
        run_training(load_recipe("convert/recall-teacher", [own]), folder, resume=True, reporter=Silent())
    elif arm == "from scratch":
        run_training(load_recipe("convert/recall-swax", [own]), folder, resume=True, reporter=Silent())
    elif arm in LAST_WINDOWS:  # an ordinary run, which starts from the stage before it
        last = Run(folder_of(root, "stochastic", seed)).recipe_file
        loaded = load_recipe(last, [pattern(LAST_WINDOWS[arm])])
        run_training(loaded, folder, resume=True, reporter=Silent())
    else:
        changes = [own, pattern("swa:64")] if arm == "long in all stages" else [own]
        teacher = str(folder_of(root, "teacher", seed))
        run_conversion(teacher, load_recipe("convert/recall-swax", changes), folder, resume=True, reporter=Silent)


def measured(run: Run) -> dict[str, float]:
    """Recall in percent by gap, and near recall; kept in a file."""
    kept = run.path / "measured.json"
    if kept.is_file():
        found: dict[str, float] = json.loads(kept.read_text(encoding="utf-8"))
        return found
    model, data, reading = load_model(run.path), run.recipe.recipe.data, ReadOptions(TEST_WINDOW, batch=32)
    task = feed_source(data)
    assert isinstance(task, RecallTask)
    found = {str(gap): mean_score(far(model, task, gap, SAMPLES, 0, reading)).score for gap in GAPS}
    found[NEAR] = clustered(near(model, held_out_batches(data, data.sequence, 32), reading)[64].hits).score
    write_whole(kept, json.dumps(found).encode())
    return found


def finished(run: Run) -> bool:
    """Whether a run has made its last step."""
    checkpoint = run.newest().checkpoint if run.recipe_file.is_file() else None
    return checkpoint is not None and checkpoint.step >= run.recipe.recipe.train.steps


def all_measured(root: Path, seeds: list[int]) -> Found:
    """What the finished runs recall."""
    found: Found = {}
    for arm in ("teacher", *ARMS):
        runs = {seed: Run(folder_of(root, arm, seed)) for seed in seeds}
        found[arm] = {seed: measured(run) for seed, run in runs.items() if finished(run)}
    return found


def table(found: Found) -> None:
    """Print the means, and the differences of pairs."""
    columns = [NEAR, *map(str, GAPS)]
    print(f"| arm | seeds | {' | '.join(columns)} |\n|---|---|{'---|' * len(columns)}")
    for arm, of_seed in found.items():
        cells = [_cell([one[column] for one in of_seed.values()]) for column in columns]
        print(f"| {arm} | {len(of_seed)} | {' | '.join(cells)} |")
    for arm in ARMS:
        pairs = [(found[arm][seed], found[REFERENCE][seed]) for seed in found[arm] if seed in found[REFERENCE]]
        cells = [_cell([one[column] - other[column] for one, other in pairs]) for column in columns]
        if arm != REFERENCE:
            print(f"| {arm} less {REFERENCE} | {len(pairs)} | {' | '.join(cells)} |")


@in_style
def plot(found: Found, file: Path) -> None:
    """Far recall over the gap: means over seeds, with their 95 % intervals."""
    figure = new_figure(height=3)
    axes, lines = figure.subplots(), list[Any]()
    for place, (arm, of_seed) in enumerate(found.items()):
        look: dict[str, Any] = {"color": "#555555", "linestyle": (0, (1, 1))} if arm == "teacher" else series(place - 1)
        columns = [[one[str(gap)] for one in of_seed.values()] for gap in GAPS]
        means, halves = [mean(column) for column in columns], [half_interval(column) or 0 for column in columns]
        at = [gap * 2 ** (0.04 * (place - 2.5)) for gap in GAPS]  # side by side, so that intervals can be told apart
        lines += axes.plot(at, means, marker="o", **look)
        axes.errorbar(at, means, halves, fmt="none", ecolor=look["color"], elinewidth=1, capsize=2)
    token_axis(axes)
    axes.set(xlabel="tokens between the pairs and the question", ylabel="recall (%)", ylim=(0, 103))
    order = by_last([mean(one[str(GAPS[-1])] for one in of_seed.values()) for of_seed in found.values()])
    legend(figure, [lines[at] for at in order], [list(found)[at] for at in order])
    figure.savefig(file)


def _cell(values: list[float]) -> str:
    half = half_interval(values)
    return "-" if not values else f"{mean(values):.1f}" + ("" if half is None else f" ± {half:.1f}")


def main() -> int:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="60,61,62,63,64")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="measure what there is, and train nothing")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    for seed in [] if given.table else seeds:
        for arm in ("teacher", "stochastic", *(arm for arm in ARMS if arm != "stochastic")):
            make(given.folder, arm, seed)
            print(f"seed {seed}: {arm}", flush=True)
    found = all_measured(given.folder, seeds)
    table(found)
    if given.plot:
        plot(found, given.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
