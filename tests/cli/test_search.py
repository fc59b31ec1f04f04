"""`hybridkit search` as people run it."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from spaces import SEQUENCES, full_attention, new_study, try_all, write_space
from typer.testing import CliRunner

from hybridkit.cli import verbs
from hybridkit.recipe.files import shipped
from hybridkit.runs.run import Run, load_recipe
from hybridkit.search.candidate import CandidateFactory
from hybridkit.search.definition import read_definition
from hybridkit.search.objectives import run_metrics
from hybridkit.search.outcome import Outcome
from hybridkit.search.study import create
from hybridkit.system.errors import UserError
from hybridkit.training.reporter import Silent
from hybridkit.training.trainer import run_training

STUDIES = sorted(name for name in shipped() if name.startswith("studies/"))


def run(*words: str) -> str:
    result = CliRunner().invoke(verbs(), ["search", *words], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A finished study of five trials and two objectives, two seeds each."""
    text = SEQUENCES + "objectives: {val_loss: min, state_bytes@1k: min}\ntrial: {seeds: 2}\ntrials: 5\n"
    try_all(new_study(tmp_path, text), full_attention)
    return tmp_path / "study"


@pytest.mark.slow
def test_the_best_is_a_recipe_that_loads(study: Path, tmp_path: Path) -> None:
    (tmp_path / "best.yaml").write_text(run("best", str(study)))
    said = json.loads(run("best", str(study), "--json"))
    assert load_recipe(tmp_path / "best.yaml").recipe.pattern == said["recipe"]["pattern"]
    ranked = json.loads(run("report", str(study), "--json"))["ranked"]
    assert said["objectives"]["val_loss"] == min(row["objectives"]["val_loss"]["mean"] for row in ranked)


@pytest.mark.slow
def test_a_report_is_one_page_that_needs_no_other(study: Path) -> None:
    html, markdown = (Path(line) for line in run("report", str(study)).split())
    page = html.read_text()
    assert page.count("<svg") == 3 and "src=" not in page and 'href="http' not in page
    for row in json.loads(run("report", str(study), "--json"))["ranked"]:
        assert row["pattern"] in page and row["pattern"] in markdown.read_text()
    assert {path.stem for path in html.parent.glob("*.svg")} == {"front", "parallel", "importance"}
    assert all(f"({path.name})" in markdown.read_text() for path in html.parent.glob("*.svg"))


@pytest.mark.slow
def test_what_builds_no_block_imports_no_torch(study: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text("pattern: sa\n")
        line = {"step": 1, "loss": 1.0, "tokens": 8, "seconds": 1.0, "tokens_per_second": 8.0, "window": None}
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    code = """
import sys
from hybridkit.cli import main
study = (["search", "best", "study"], ["report", "study"])
for words in (*study, ["show", "a", "b"], ["show", "a", "b", "--plot", "c.svg"]):
    sys.argv = ["hybridkit", *words]
    try:
        main()
    except SystemExit as end:
        assert not end.code, words
print([name for name in ("torch", "networkx", "transformers") if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert ran.stdout.splitlines()[-1] == "[]" and "pattern: " in ran.stdout


WRONG = {  # words: what the message says
    ("best",): "search report STUDY",
    ("reprot", "x"): "search report x",
    ("report", "x", "y"): "a word and a study",
    ("report", "nowhere"): "holds no study",
    ("nowhere.yaml",): "no such file",
}


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_wrong_words_are_answered(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(verbs(), ["search", *words])
    assert isinstance(result.exception, UserError) and WRONG[words] in str(result.exception)


def test_a_study_is_not_begun_twice(study: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(verbs(), ["search", str(tmp_path / "space.yaml"), "--study", str(study)])
    assert isinstance(result.exception, UserError)
    assert all(word in str(result.exception) for word in ("--resume", "--study"))


@pytest.mark.slow
def test_a_mistake_is_answered_without_torch_and_before_a_folder_is_made(tmp_path: Path) -> None:
    space = write_space(tmp_path, SEQUENCES + "sampler: greed\n")
    code = f"import sys; sys.argv = ['hybridkit', 'search', {str(space)!r}, '--study', {str(tmp_path / 'study')!r}]\n"
    code += "import atexit; atexit.register(lambda: print('torch' in sys.modules))\n"
    code += "from hybridkit.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "False\n")
    assert done.stderr.startswith(f"hybridkit: {space}:") and done.stderr.count("\n") == 1
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("name", STUDIES)
def test_shipped_studies_are_sound(name: str) -> None:
    CandidateFactory(read_definition(shipped()[name])).check()


SMALL = {  # of the study of mixers: two trials of two steps, on data that needs no text
    "../quickstart.yaml": "quickstart",
    "trials: 60": "trials: 2",
    "steps: 200": "steps: 2",
    "min_steps: 50": "min_steps: 1",
    "{sequence: 256}": "{sequence: 64, source: recall(pairs=2)}",
    "batch_tokens: 1k, validate_every: 200, checkpoint_every: 100": "batch_tokens: 128, precision: fp32",
}


@pytest.mark.slow
def test_the_study_of_mixers_trains_what_its_state_allows(tmp_path: Path) -> None:
    text = shipped()["studies/mixers-under-state"].read_text(encoding="utf-8")
    for old, new in SMALL.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "space.yaml").write_text(text, encoding="utf-8")
    study = create(read_definition(tmp_path / "space.yaml"), tmp_path / "study", None)
    while trial := study.begin():
        made = Run(study.trial_folder(trial.number) / "seed-0")
        run_training(study.candidate(trial).run(0), made.path, resume=True, reporter=Silent())
        study.end(trial, Outcome([run_metrics(made)]))
    tried = study.trials()
    assert [trial.state for trial in tried] == ["done"] * 2
    assert "state_bytes@131072 <= 143KiB" in text
    assert all(math.isfinite(loss) and state <= 143 * 1024 for trial in tried for loss, state in trial.values)


@pytest.mark.slow
def test_a_search_in_which_every_trial_failed_says_so_with_exit_code_1(tmp_path: Path) -> None:
    """The figure is in no list before training: a member of a bin of near recall that no query falls into."""
    text = "extends: base.yaml\nspace: {w: [4], pattern: '[swa:{w}, mlstm]'}\nsampler: grid\n"
    text += "trial: {evaluate: --no-perplexity --recall 4 --samples 2}\nobjectives: {eval.recall_near.4096: max}\n"
    space = write_space(tmp_path, text)
    words = [sys.executable, "-m", "hybridkit", "search", str(space), "--study", str(tmp_path / "study")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1 and "every trial failed; trial 0: the runs report no" in done.stderr
