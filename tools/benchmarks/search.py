"""The time of a search without training: rejected candidates, and bookkeeping of trials.

    python tools/benchmarks/search.py [--sampler random] [--json]

Rejections: 1,000 candidates that are all out of budget, from the sampler's proposal to the comparison with the budget.
Trials: writing a trial to the journal and reading all of them, for 40 trials.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from hybridkit.search.candidate import CandidateFactory
from hybridkit.search.definition import Definition, read_definition
from hybridkit.search.outcome import Outcome
from hybridkit.search.screening import CandidateFilter
from hybridkit.search.study import PATIENCE, Study, create, proposals

SPACE = """
extends: {base}
space:
  w: [16, 32, 64, 128]
  layers: {{length: 8, of: [swa:{{w}}, swa:64, mlstm, sa], symmetric: no}}
  train.lr: {{log: [5e-4, 5e-3]}}
budget: [{budget}]
sampler: {sampler}
trials: 40
"""


def define(folder: Path, **settings: str) -> Definition:
    """A space of eight free layers, written to a new folder."""
    folder.mkdir()
    (folder / "space.yaml").write_text(SPACE.format(**settings), encoding="utf-8")
    return read_definition(folder / "space.yaml")


def rejections(definition: Definition) -> float:
    """Seconds for `PATIENCE` candidates that are out of budget."""
    begin = time.perf_counter()
    found = CandidateFilter(CandidateFactory(definition), []).find(proposals(definition, [], 0))
    assert found is None, "a candidate was within the budget"
    return time.perf_counter() - begin


def trials(opened: Study) -> float:
    """Seconds per trial that begins and ends without training."""
    begin = time.perf_counter()
    while trial := opened.begin():
        opened.end(trial, Outcome([{"val_loss": float(trial.number % 7)}]))
    return (time.perf_counter() - begin) / opened.num_trials


def main() -> None:
    """Print the time of rejections and of trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="quickstart")
    parser.add_argument("--sampler", default="random", choices=["random", "tpe", "nsga2", "evolution"])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    settings = {"base": given.base, "sampler": given.sampler}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        refused = rejections(define(root / "refused", budget="params <= 1", **settings))
        defined = define(root / "tried", budget="params <= 1e15", **settings)
        tried = trials(create(defined, root / "tried" / "study", None))
    found = {**settings, "rejected": PATIENCE, "seconds": round(refused, 2), "seconds_a_trial": round(tried, 3)}
    if given.json:
        print(json.dumps(found))
    else:
        print(f"{PATIENCE:,} candidates out of budget rejected in {refused:.2f} s")
        print(f"{tried * 1e3:.0f} ms for each of 40 trials, training excluded")


if __name__ == "__main__":
    main()
