"""Arms against a reference: pairs by seed, at the end and when first learnt, on studies made by hand."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from spaces import new_study, write_space

from hybridkit.report.compare import comparison_figures, comparison_tables
from hybridkit.report.search_pages import write_pages
from hybridkit.search.candidate import CandidateFactory
from hybridkit.search.compare import Arm, ArmRun, Comparison, Question, comparison, comparison_json
from hybridkit.search.definition import read_definition
from hybridkit.search.outcome import OUTCOME, Outcome
from hybridkit.search.results import trial_scores
from hybridkit.search.schema import CompareSettings
from hybridkit.search.study import Study, resume
from hybridkit.search.trials import half_interval
from hybridkit.system.errors import UserError

SEEDS = [0, 4, 5, 6]  # 0 too, which is no absent seed: the base recipe has 7
SPACE = """
extends: base.yaml
space: {train.seed: [0, 4, 5, 6], size: [4, 8]}
patterns: {short: "[swa:{size}, mlstm]", long: "[swa:16, mlstm, swa:{size}]"}
sampler: grid
trial:
  evaluate: --recall 8
  windows: [4]
  train: {seed: 7, probes: [{every: 2, recall: 8, samples: 2}], probe_share: 9}
objectives: {eval.recall_far.8.4: max}
"""
COMPARE = """
compare:
  reference: long
  learnt: {metric: recall_near, at_least: .95}
  at_end: [eval.recall_far.8.4, probe.recall.8.own]
  when_learnt: [probe.recall.8.own]
"""
Near = tuple[float, float, float]  # near recall at three probes


def finish(study: Study, far: Mapping[str, list[float]], near: Mapping[str, list[Near]]) -> Comparison:
    """End all trials with far recall and probes by arm and seed; size 8 has one point more. The comparison."""
    while trial := study.begin():
        seed, arm, more = (
            SEEDS.index(int(str(trial.params["train.seed"]))),
            str(trial.params["pattern"]),
            trial.params["size"] == 8,
        )
        run = study.run(trial, 0)
        run.path.mkdir(parents=True)
        lines = [
            {"step": 2 * n + 2, "recall_near": share, "probe.recall.8.own": n / 10}
            for n, share in enumerate(near[arm][seed])
        ]
        (run.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        score = far[arm][seed] + more
        outcome = Outcome([{"eval": {"recall_far": {"8": {"4": score}, "16": {"4": score / 2}}}}])
        (study.trial_folder(trial.number) / OUTCOME).write_text(json.dumps(outcome.__dict__))
        study.end(trial, outcome)
    found = comparison(study)
    assert found
    return found


@pytest.fixture
def found(tmp_path: Path) -> Comparison:
    """Short learns with every seed, long with three of four, one of them at once."""
    near = {"short": [(0.2, 0.96, 0.97)] * 4, "long": [(0.99, 0.99, 0.99), *[(0.2, 0.3, 0.96)] * 2, (0.2, 0.2, 0.2)]}
    far = {"short": [90.0, 92.0, 94.0, 80.0], "long": [50.0, 51.0, 55.0, 10.0]}
    return finish(new_study(tmp_path, SPACE + COMPARE), far, near)


def test_arms_are_compared_seed_by_seed_within_their_group(found: Comparison) -> None:
    ends = [one for one in found.differences() if one.question.name.startswith("eval")]
    assert [(one.arm, one.only_learnt, one.pairs, one.above) for one in ends] == [
        (Arm(f"size {size}", "short"), learnt, pairs, pairs)
        for learnt, pairs in ((True, 3), (False, 4))
        for size in (4, 8)
    ]
    learnt = ends[0]  # differences 40, 41 and 39
    assert learnt.mean == pytest.approx(40) and learnt.effect == pytest.approx(40)
    assert learnt.half == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert ends[2].mean == pytest.approx(47.5)


def test_the_first_probe_that_counts_as_learnt_is_compared_with_the_other_runs_own(found: Comparison) -> None:
    (first, *_) = (one for one in found.differences() if one.question.first and not one.only_learnt)
    assert first.pairs == 3 and first.mean == pytest.approx((0.1 - 0.0 + 2 * (0.1 - 0.2)) / 3)
    (last, *_) = (
        one for one in found.differences() if one.question.name.startswith("probe") and not one.question.first
    )
    assert last.mean == 0 and last.half is None and last.effect is None, "equal differences show no spread"
    steps = {run.seed: (run.learnt, run.step) for run in found.of(Arm("size 4", "long"))}
    assert steps == {0: (True, 2), 4: (True, 6), 5: (True, 6), 6: (False, None)}


def test_differences_that_are_equal_but_for_rounding_show_no_spread() -> None:
    """The interval had the width 0, and the effect size was 3.6e15."""
    settings = CompareSettings.model_validate({"reference": "long", "at_end": ["a"]})
    shares, question = {"long": [0.6, 0.4, 0.3], "short": [0.8, 0.6, 0.5]}, Question("a", False)
    runs = [
        ArmRun(Arm("", arm), seed, True, None, {question: share})
        for arm, found in shares.items()
        for seed, share in enumerate(found)
    ]
    (one,) = Comparison(settings, runs, {Arm("", arm): [0] for arm in shares}).differences()
    assert (one.mean, one.half, one.effect) == (pytest.approx(0.2), None, None)
    assert half_interval([0.1 + 0.2, 0.3, 0.3]) is None and half_interval([1e-9, 2e-9]) is not None


def test_fewer_than_three_pairs_have_no_interval(tmp_path: Path) -> None:
    space = SPACE.replace("[0, 4, 5, 6]", "[0, 4]") + COMPARE
    near = {"short": [(0.1, 0.1, 0.99)] * 2, "long": [(0.1, 0.1, 0.99)] * 2}
    (one, *_) = finish(new_study(tmp_path, space), {"short": [5.0, 7.0], "long": [1.0, 1.0]}, near).differences()
    assert (one.pairs, one.mean, one.half, one.effect) == (2, 5.0, None, None)


@pytest.mark.slow
def test_tables_pages_and_json_say_the_same(tmp_path: Path, found: Comparison) -> None:
    arms, differences = comparison_tables(found)
    assert arms.rows[1][:4] == ["size 4, long", "4", "3 of 4", "6 [2, 6]"]
    assert differences.rows[0][1:] == ["size 4, short", "3", "+40.0", "[+37.5, +42.5]", "+40.0", "3 of 3", "learnt"]
    assert differences.front[:2] == [0, 1] and differences.rows[2][1:3] == ["size 4, short", "4"]
    said = comparison_json(found)
    assert len(said["runs"]) == 16 and said["differences"][0]["mean"] == pytest.approx(40)
    study = resume(read_definition(tmp_path / "space.yaml"), tmp_path / "study")
    drawn = list(comparison_figures(found, trial_scores(study), 16))
    assert [name for name, _, _ in drawn] == ["compare-4"] and len(drawn[0][2].axes) == 2, "a row for each size"
    html, markdown = write_pages(study)
    assert "compare-4" in html.read_text() and "[+37.5, +42.5]" in markdown.read_text()
    assert markdown.read_text().count("size 4, short") > 3, "tables of scores have a row for each arm"


def test_what_is_compared_may_change_on_resume(tmp_path: Path) -> None:
    study = new_study(tmp_path, SPACE)
    assert comparison(study) is None
    more = resume(read_definition(write_space(tmp_path, SPACE + COMPARE)), study.folder)
    assert comparison(more) is not None


WRONG = {
    COMPARE.replace("reference: long", "reference: lang"): "no value of pattern: short, long",
    COMPARE.replace("reference: long", "reference: 4\n  variable: train.seed"): "known: size, pattern",
    COMPARE.replace("  learnt: {metric: recall_near, at_least: .95}\n", ""): "when_learnt needs learnt",
    "compare: {reference: long}\n": "should name figures",
    COMPARE.replace("when_learnt: [probe.recall.8.own]", "when_learnt: [probe.recall.9.own]"): "probe.recall.8.own?",
    COMPARE.replace("eval.recall_far.8.4", "eval.recall_fur.8.4"): "no recall_fur",
}


@pytest.mark.parametrize("text", WRONG, ids=WRONG.values())
def test_a_wrong_comparison_is_answered_before_anything_runs(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="compare") as caught:
        CandidateFactory(read_definition(write_space(tmp_path, SPACE + text))).check_names()
    assert WRONG[text] in str(caught.value) and "space.yaml:" in str(caught.value)
