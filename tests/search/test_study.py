"""Which candidates a study proposes and refuses; nothing is trained here."""

import json
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from spaces import SEQUENCES, full_attention, new_study, try_all, write_space

from hybridkit.report.search import LiveTable
from hybridkit.search.candidate import Candidate, CandidateFactory
from hybridkit.search.definition import read_definition
from hybridkit.search.feasible import SEARCH_SECONDS, require_feasible
from hybridkit.search.outcome import Outcome
from hybridkit.search.results import results, results_json
from hybridkit.search.scheduler import SearchProgress
from hybridkit.search.space import Params
from hybridkit.search.study import Study, create, open_study, resume
from hybridkit.search.trials import Trial
from hybridkit.system.errors import UserError

SAMPLERS = ["random", "tpe", "nsga2", "evolution"]
PATIENT = partial(require_feasible, seconds=600)  # so that a busy machine tries as many candidates as a quiet one
BUDGET = "budget: [state_bytes@1k <= 20000]\n"


def choices(trials: list[Trial]) -> list[Params]:
    return [trial.params for trial in trials]


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_seed_gives_the_same_study_even_when_it_is_interrupted(sampler: str, tmp_path: Path) -> None:
    text = f"{SEQUENCES}{BUDGET}sampler: {sampler}\ntrials: 8\n"
    whole = try_all(new_study(tmp_path, text, "whole"), full_attention)
    parts = new_study(tmp_path, text, "parts")
    for most in (2, 4, 20):
        trials = try_all(parts, full_attention, most)
        parts = open_study(tmp_path / "parts")
    assert choices(trials) == choices(whole) and len(whole) == 8
    assert [trial.proposals for trial in trials] == [trial.proposals for trial in whole]
    other = try_all(new_study(tmp_path, f"{text}seed: 1\n", "other"), full_attention)
    assert choices(other) != choices(whole)


def test_a_random_study_is_the_same_whatever_the_order_in_which_trials_end(tmp_path: Path) -> None:
    text = f"{SEQUENCES}sampler: random\ntrials: 6\n"
    one = choices(try_all(new_study(tmp_path, text, "one"), full_attention))
    several = new_study(tmp_path, text, "several")
    begun = [several.begin() for _ in range(6)]
    assert choices([trial for trial in begun if trial]) == one


@pytest.mark.slow
def test_a_grid_tries_every_point_that_is_within_the_budget_once(tmp_path: Path) -> None:
    study = new_study(tmp_path, SEQUENCES.replace("length: 4", "length: 3") + BUDGET + "sampler: grid\n")
    trials = try_all(study, full_attention)
    points = [study.factory.make(params) for params in study.definition.space.grid()]
    within = {point.key for point in points if study.factory.check_budget(point).violation == 0}
    assert {trial.key for trial in trials} == within and len(trials) == len(within)
    assert study.storage.read_counts() == (64, 64 - len(within), 0) and 0 < len(within) < 64


def test_choices_with_the_same_recipe_are_one_trial_whose_value_both_have(tmp_path: Path) -> None:
    text = "extends: base.yaml\nspace:\n  n: [1, 2]\n  pattern: [{unit}]*{n}\n  unit: [sa, 'sa, sa', mlstm]\n"
    study = new_study(tmp_path, text + "sampler: grid\n")
    trials = try_all(study, lambda trial: float(len(trial.pattern)))
    assert Counter(trial.pattern for trial in trials) == Counter(["sa", "sa*2", "mlstm", "sa*4", "mlstm*2"])
    (twin,) = (trial for trial in trials if trial.pattern == "sa*2")
    assert (twin.params, [alias.params for alias in twin.aliases]) == (
        {"n": 1, "unit": "sa, sa"},
        [{"n": 2, "unit": "sa"}],
    )
    assert results_json(results(study))["duplicates"] == 1


def refusal(text: str, folder: Path) -> str:
    """The message for a space whose budget nothing meets; nothing is written."""
    with pytest.raises(UserError) as caught:
        create(read_definition(write_space(folder, text)), folder / "study", None)
    assert not (folder / "study").exists()
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["random", "grid"])
def test_a_budget_that_nothing_meets_is_refused_with_the_nearest_candidate(
    sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybridkit.search.study.require_feasible", PATIENT)
    text = SEQUENCES.replace("length: 4", "length: 3")
    text += f"budget: [params <= 100, params <= 1M]\nsampler: {sampler}\n"
    factory = CandidateFactory(definition := read_definition(write_space(tmp_path, text)))
    fewest = min(factory.make(params).costs("params") for params in definition.space.grid())
    said = refusal(text, tmp_path)
    assert "space.yaml:5" in said and "nothing meets `params <= 100`; nearest: layers.1 = " in said
    assert said.endswith(f"with params = {fewest:g}")


@pytest.mark.slow
def test_the_refusal_takes_seconds_where_candidates_take_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand proposals of these would take a minute and more."""
    make = CandidateFactory.make

    def slowly(self: CandidateFactory, params: Params) -> Candidate:
        end = time.process_time() + 0.05  # of the processor: on a busy machine it takes longer
        while time.process_time() < end:
            pass
        return make(self, params)

    monkeypatch.setattr(CandidateFactory, "make", slowly)
    begin = time.process_time()
    said = refusal(SEQUENCES.replace("length: 4", "length: 24") + "budget: [params <= 100]\n", tmp_path)
    assert time.process_time() - begin < SEARCH_SECONDS + 2 and "nothing meets `params <= 100`" in said


def test_the_message_distinguishes_a_limit_that_none_meets_from_limits_that_none_meets_together(tmp_path: Path) -> None:
    space = "extends: base.yaml\nspace:\n  n: {int: [1, 9]}\n  pattern: mlstm*{n}\n"
    sizes = [
        CandidateFactory(read_definition(write_space(tmp_path, space))).make({"n": n}).costs("params") for n in (1, 9)
    ]
    both = f"budget: [params <= {sizes[0]:g}, params >= {sizes[1]:g}]\n"
    assert "each limit is met by some, all together by none; nearest: n = " in refusal(space + both, tmp_path)


def test_a_budget_that_few_candidates_meet_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few of 279 choices meet it: some random draws would not find one."""
    monkeypatch.setattr("hybridkit.search.study.require_feasible", PATIENT)
    space = "extends: base.yaml\nspace:\n  n: {int: [1, 9]}\n  model.width: {int: [16, 496], step: 16}\n"
    space += "  pattern: mlstm*{n}\nsampler: random\n"
    factory = CandidateFactory(read_definition(write_space(tmp_path, space)))
    wanted = factory.make({"n": 7, "model.width": 176}).costs("params")
    study = new_study(tmp_path, space + f"budget: [params: {wanted:g} +- .1%]\n")
    assert study.definition.budget[0].violation(wanted) == 0


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_within_a_budget_finds_what_is_best_there(sampler: str, tmp_path: Path) -> None:
    text = SEQUENCES + f"budget: [state_bytes@1k <= 300000]\nsampler: {sampler}\ntrials: 24\n"
    found = results(study := new_study(tmp_path, text))
    assert found.best is None
    try_all(study, full_attention)
    found = results(study)
    assert found.best and found.best.means == [2.0], "two layers of full attention fit, and no three do"
    assert all(trial.costs["state_bytes@1k"] <= 300000 for trial in found.trials)


@pytest.mark.slow
def test_a_study_ends_where_nothing_new_is_left(tmp_path: Path) -> None:
    study = new_study(tmp_path, SEQUENCES.replace("length: 4", "length: 1") + "sampler: random\ntrials: 9\n")
    assert len(try_all(study, full_attention)) == 4 and "nothing new" in study.stop_reason


def test_seeds_are_means_with_intervals(tmp_path: Path) -> None:
    study = new_study(tmp_path, SEQUENCES + "trial: {seeds: 3}\ntrials: 2\n")
    (first, _) = try_all(study, full_attention)
    assert first.values == [[first.values[0][0] + seed] for seed in range(3)]
    assert first.means == [first.values[1][0]] and first.half_intervals[0] == pytest.approx(4.303 / 3**0.5, rel=1e-3)
    seeds = [study.candidate(first).run(seed).recipe.train.seed for seed in range(3)]
    assert seeds == [0, 1, 2]


def test_costs_can_be_objectives_and_a_missing_metric_fails_only_its_trial(tmp_path: Path) -> None:
    aims = "objectives: {val_loss: min, state_bytes@1k: min, eval.recall_far.8: max}\n"
    text = SEQUENCES + aims + "trial: {evaluate: --recall 8}\n"
    study = new_study(tmp_path, text)
    first, second = study.begin(), study.begin()
    assert first and second
    study.end(first, Outcome([{"val_loss": 1.0, "eval": {"recall_far": {"8": {"own": 50.0}}}}]))
    study.end(second, Outcome([{"val_loss": 1.0, "eval": {"recall_near": {"8": {"own": 50.0}}}}]))
    done, failed = study.trials()
    assert done.means == [1.0, study.candidate(done).costs("state_bytes@1k"), 50.0]
    assert failed.state == "failed" and "eval.recall_far.8" in failed.reason


def test_only_the_number_of_trials_may_change_on_resume(tmp_path: Path) -> None:
    text = SEQUENCES + "sampler: random\ntrials: 2\n"
    try_all(new_study(tmp_path, text), full_attention)
    more = resume(read_definition(write_space(tmp_path, text.replace("trials: 2", "trials: 5"))), tmp_path / "study")
    assert len(try_all(more, full_attention)) == 5
    others = "trial: {seeds: 2}", "budget: [params <= 1e9]", "trial: {flops: 1e9}", "objectives: {loss: min}"
    for changed in (text.replace("swa:4", "swa:5"), *(f"{text}{line}\n" for line in others)):
        with pytest.raises(UserError, match="begun with another"):
            resume(read_definition(write_space(tmp_path, changed)), tmp_path / "study")


def test_a_study_by_another_meaning_of_loss_is_not_resumed(tmp_path: Path) -> None:
    text = SEQUENCES + "sampler: random\ntrials: 1\nobjectives: {loss: min}\ntrial: {flops: 1e9}\n"
    folder = new_study(tmp_path, text).folder
    resume(again := read_definition(tmp_path / "space.yaml"), folder)
    with pytest.raises(UserError, match="begun with another"):  # fewer keys than it was begun with
        resume(read_definition(write_space(tmp_path, SEQUENCES)), folder)
    settings = json.loads((folder / "study.json").read_text())
    (folder / "study.json").write_text(json.dumps({name: settings[name] for name in ("storage", "name", "owner")}))
    with pytest.raises(UserError, match="last 50 steps"):
        resume(again, folder)


@pytest.mark.slow
def test_two_folders_share_a_storage(tmp_path: Path) -> None:
    definition = read_definition(write_space(tmp_path, SEQUENCES + "sampler: random\ntrials: 6\n"))
    url = f"sqlite:///{tmp_path}/shared.db"
    here, there = (create(definition, tmp_path / name, url) for name in ("here", "there"))
    begun: list[tuple[Study, Trial]] = []
    for study in (here, there, there, here, here, there, here):
        if trial := study.begin():
            begun.append((study, trial))
    for study, trial in begun:
        study.end(trial, Outcome([{"val_loss": 1.0}]))
    assert [trial.number for trial in here.trials()] == list(range(6))
    assert len({trial.key for trial in there.trials()}) == 6
    other = read_definition(write_space(tmp_path, SEQUENCES + "sampler: random\nseed: 9\n"))
    with pytest.raises(UserError, match="another definition"):
        create(other, tmp_path / "third", url)


def test_results_are_json(tmp_path: Path) -> None:
    study = new_study(tmp_path, SEQUENCES + "objectives: {val_loss: min, params: min}\ntrials: 5\n")
    try_all(study, full_attention)
    said = json.loads(json.dumps(results_json(results(study))))
    assert [row["front"] for row in said["ranked"]] == sorted((row["front"] for row in said["ranked"]), reverse=True)
    assert said["trials"] == {"done": 5, "pruned": 0, "failed": 0, "running": 0}


def test_a_log_file_has_one_line_for_each_trial_that_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hybridkit.report.pace.LINE_EVERY", 0.0)
    study = new_study(tmp_path, f"{SEQUENCES}sampler: random\ntrials: 2\n")
    table = LiveTable(workers=1)
    while trial := study.begin():
        table.update(SearchProgress(study, study.trials(), [], 1.0))
        study.end(trial, Outcome([{"val_loss": 1.0}]))
        table.update(SearchProgress(study, study.trials(), [], 2.0))
    said = [line.partition(" trials")[0] for line in capsys.readouterr().err.splitlines()]
    assert said == ["0 of 2", "1 of 2", "2 of 2"]
