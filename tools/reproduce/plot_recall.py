"""Far recall over the gap, one curve for each pattern of a study.

    python tools/reproduce/plot_recall.py STUDY FILE.svg|png [--window 64]

STUDY is the folder of a finished grid study whose trials were evaluated with `--recall`, such as
recipes/studies/short-window.yaml. Thick lines are means over the seeds, thin lines single seeds.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean

from matplotlib.figure import Figure

from hybridkit.runs.run import Run

Scores = dict[int, float]


def main() -> None:
    """Read the results of every seed and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument(
        "--window", type=int, default=64, help="the window at test time; runs without windows are drawn too"
    )
    given = parser.parse_args()
    curves = {trial: seeds for trial in sorted(given.study.glob("trials/*")) if (seeds := scores(trial, given.window))}
    if not curves:
        parser.error(f"{given.study}: no trial with far recall at window {given.window}")
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots()
    for trial, seeds in curves.items():
        gaps = sorted(seeds[0])
        means = [mean(seed[gap] for seed in seeds) for gap in gaps]
        (line,) = axes.plot(gaps, means, marker="o", label=pattern(trial))
        for seed in seeds:
            axes.plot(gaps, [seed[gap] for gap in gaps], color=line.get_color(), linewidth=0.6, alpha=0.5)
    axes.set(xscale="log", xlabel="gap, tokens", ylabel="far recall, %", ylim=(0, 102))
    axes.set_xticks(gaps, map(str, gaps), minor=False)
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(given.file)


def scores(trial: Path, window: int) -> list[Scores]:
    """Accuracy in % by gap, of every seed of a trial."""
    found = []
    for file in sorted(trial.glob("seed-*/eval/results.json")):
        seed: Scores = defaultdict(float)
        for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
            if cell["task"] == "recall_far" and cell["window"] in (window, None):
                seed[cell["length"]] = cell["score"]
        found.append(seed)
    return [seed for seed in found if seed]


def pattern(trial: Path) -> str:
    """The pattern of a trial, as its first seed's recipe has it."""
    return Run(min(trial.glob("seed-*"))).recipe.recipe.pattern


if __name__ == "__main__":
    main()
