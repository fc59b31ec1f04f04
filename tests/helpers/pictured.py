"""Fixed data behind the pictures and pages of tests: three runs, an evaluation of them, and a study."""

import math
import random

from hybridkit.evaluation.request import CellScore, DepthScore, EvalResult
from hybridkit.report.curves import RunCurve
from hybridkit.search.results import RankedTrial, Results, TrialCurve
from hybridkit.search.trials import Counts, Trial, pareto_front, rank

RUNS = ("runs/swax-stochastic", "runs/swax-2048", "runs/a transformer with a rather long name")
DRAW = random.Random(0)


def curves() -> list[RunCurve]:
    made = []
    for place, name in enumerate(RUNS):
        losses = [2 + 3 * math.exp(-step / 20) + 0.1 * place + DRAW.gauss(0, 0.05) for step in range(1, 121)]
        steps = [
            {"step": n, "tokens": 8192 * n, "loss": loss, "seconds": 0.5, "tokens_per_second": 2e4, "window": 8}
            for n, loss in enumerate(losses, start=1)
        ]
        made.append(RunCurve(name, steps, [{"step": n, "val_loss": losses[n - 1]} for n in (40, 80, 120)]))
    return made


def evaluation() -> EvalResult:
    made = EvalResult(
        {"samples": 50, "haystack": None, "interval": "95 %"},
        dict(zip(RUNS, ("stoch(128,2048)", "2048", ""), strict=True)),
    )
    for place, run in enumerate(RUNS):
        for length in (4096, 16384, 131072):
            for window in (128, 2048):
                score = 100.0 * DRAW.random()
                made.cells.append(CellScore(run, "niah_single_1", length, window, 50, score, score / 2, 100.0))
                asked = [depth for depth in range(0, 100, 10) if DRAW.random() < 0.8]
                made.depths += [
                    DepthScore(run, "niah_single_1", length, window, d, 5, DRAW.randint(0, 5)) for d in asked
                ]
        made.cells += [CellScore(run, "recall_far", gap, None, 50, 90.0 - gap / 9, 40.0, 99.0) for gap in (0, 8, 512)]
        made.by_position += [
            {
                "run": run,
                "window": None,
                "first": 2**k,
                "last": 2**k,
                "tokens": 999,
                "loss": 3 - k / 9 + place,
                "gain": None,
            }
            for k in range(12)
        ]
    return made


def study() -> Results:
    trials = []
    for number in range(16):
        window, kind = 2 ** DRAW.randint(4, 9), DRAW.choice(["swa", "mlstm", "sa"])
        loss = 3 - 0.08 * math.log2(window) + DRAW.random() / 9
        values: list[list[float | None]] = [[loss + DRAW.gauss(0, 0.01), window * 4096.0] for _ in range(3)]
        trials.append(Trial(number, "done", {"w": window, "kind": kind, "lr": DRAW.random()}, kind, values=values))
    means, least = [trial.means for trial in trials], [False, False]
    front = set(pareto_front(means, least))
    rows = [
        RankedTrial(place, trials[at], trials[at].means, trials[at].half_intervals, at in front)
        for place, at in enumerate(rank(means, least), start=1)
    ]
    shares = [{"w": 0.6, "kind": 0.2, "lr": 0.1}] * 2
    return Results("a study", {"val_loss": "min", "state_bytes": "min"}, rows, shares, trials, Counts(), 16, 3)


TRIED = [TrialCurve(n, 0, list(range(1, 61)), [4 - n / 20 - s / 60 for s in range(60)]) for n in range(16)]
