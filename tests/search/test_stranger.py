"""Untrusted study folders and space files: read or refused with a message; nothing is executed or written."""

import json
import math
import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from spaces import SEQUENCES, full_attention, new_study, try_all, write_space
from typer.testing import CliRunner

from hybridkit.cli import verbs
from hybridkit.report.search import ranked, summarize
from hybridkit.search.definition import read_definition
from hybridkit.search.folder import SETTINGS, holds_study
from hybridkit.search.results import curves, results, results_json, trial_scores
from hybridkit.search.sampler import Proposer
from hybridkit.search.samplers.tpe import Tpe
from hybridkit.search.storage import JOURNAL
from hybridkit.search.study import create, open_study, resume
from hybridkit.search.trials import pareto_front, rank
from hybridkit.system.errors import Failure, UserError

AIMS = "objectives: {val_loss: min, params: min}\n"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A finished study of three trials with a duplicate, two seeds each, and an outcome."""
    text = SEQUENCES.replace("length: 4", "length: 2") + AIMS + "sampler: random\ntrial: {seeds: 2}\ntrials: 3\n"
    try_all(new_study(tmp_path, text), full_attention)
    trial = tmp_path / "study" / "trials" / "0000"
    trial.mkdir(parents=True)
    seed = {"val_loss": 1.0, "eval": {"recall_far": {"8": {"own": 50.0}}}}
    (trial / "outcome.json").write_text(json.dumps({"seeds": [seed, seed], "error": None}))
    return tmp_path / "study"


def search(*words: str | Path) -> BaseException | None:
    return CliRunner().invoke(verbs(), ["search", *map(str, words)]).exception


def refused(said: str, *words: str | Path) -> None:
    error = search(*words)
    assert isinstance(error, UserError) and said in str(error), error


@pytest.mark.parametrize("name", ["report", "report/report.html", "report/.report.html.part", "space.yaml", JOURNAL,
                                  ".lock", "trials", "trials/0000/seed-0", "trials/0000/log.txt"])  # fmt: skip
def test_nothing_is_written_through_a_link(study: Path, name: str, tmp_path: Path) -> None:
    (study / "report").mkdir()
    path, victim = study / name, tmp_path / "victim"
    if path.is_dir():
        path.rename(victim)
    elif path.exists():
        victim.write_bytes(path.read_bytes())
        path.unlink()
    else:
        victim.write_text("precious")
    before = {file: file.read_bytes() for file in (victim, *victim.rglob("*")) if file.is_file()}
    path.symlink_to(victim)
    for words in (("report", study), (tmp_path / "space.yaml", "--study", study, "--resume")):
        refused(f"{name} is a symbolic link", *words)
    assert before == {file: file.read_bytes() for file in (victim, *victim.rglob("*")) if file.is_file()}


def test_a_pipe_does_not_hang(study: Path) -> None:
    (study / JOURNAL).unlink()
    os.mkfifo(study / JOURNAL)
    refused("neither a file nor a folder", "report", study)


@pytest.mark.parametrize("said", ["sqlite:///{}", "sqlite+pysqlite:///{}", "outside"])
def test_the_address_of_the_storage_is_never_read_from_the_folder(study: Path, said: str, tmp_path: Path) -> None:
    settings = json.loads((study / SETTINGS).read_text())
    (study / SETTINGS).write_text(json.dumps(settings | {"storage": said.format(tmp_path / "made.db")}))
    for words in (("report", study), ("best", study), (tmp_path / "space.yaml", "--study", study, "--resume")):
        refused("give its address with --storage", *words)
    assert not (tmp_path / "made.db").exists()


@pytest.mark.slow
def test_reading_a_study_writes_nothing_but_the_report(study: Path) -> None:
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    assert search("best", study) is None and search("report", study) is None
    after = {path: path.read_bytes() for path in study.rglob("*") if path.is_file() and path.parent.name != "report"}
    assert after == before


@pytest.mark.parametrize("said", [
    "--plugin evil.py", "--plugin=evil.py", "--recall 8 --plugin evil.py", "--recall --plugin evil.py", "evil",
    "--out ../..", "--out=/tmp/x", "--include tasks --tasks a", "--haystack /etc/passwd", "--json", "--help", "-h",
    "--recall 8 -- ../run", "--plug evil.py", "--recall", "--recall=--plugin", "'--recall", "--no-perplexity=1",
])  # fmt: skip
def test_a_space_file_names_no_code_and_no_path(said: str, tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    space = write_space(tmp_path, SEQUENCES + f"trial: {{evaluate: {json.dumps(said)}}}\n")
    with pytest.raises(UserError, match=r"space\.yaml:5.*trial\.evaluate"):
        read_definition(space)
    refused("trial.evaluate", space, "--study", tmp_path / "new")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "new").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "{}", '{"storage": null, "name": 3, "owner": "a"}',
                                  '{"storage": null, "name": "\\ud800", "owner": "a"}', "[" * 100_000, "\xff",
                                  '{"storage": NaN, "name": "space", "owner": "a"}'])  # fmt: skip
def test_a_damaged_settings_file_is_a_message(study: Path, text: str) -> None:
    (study / SETTINGS).write_text(text, "latin-1")
    for words in (("report", study), ("best", study)):
        refused("study.json", *words)


def test_a_study_folder_as_space_file_is_refused_with_advice(study: Path) -> None:
    assert holds_study(study) and not holds_study(study.parent)
    refused(f"hybridkit search {study / 'space.yaml'} --study {study} --resume", study)


ODD: list[Any] = [None, True, -1, 10**400, 1e308, math.nan, math.inf, "", "../../x", "\ud800", "\x1b[31m", [], [[]], {}]
ODD += [{"a": [1]}, "x" * 5000, 2**70, 0.5, "1"]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*path, key))


def put(value: Any, path: tuple[Any, ...], odd: Any) -> Any:
    if not path:
        return odd
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = put(copy[path[0]], path[1:], odd)
    return copy


def use(folder: Path) -> None:
    """Everything that the verbs do with a study, except training."""
    opened = open_study(folder)
    found = results(opened)
    json.dumps(results_json(found), allow_nan=False)
    trial_scores(opened), curves(opened), ranked(found, found.rows), summarize(found), opened.own_running()
    if found.best:
        opened.candidate(found.best.trial)
    definition, trials = opened.definition, found.trials
    proposer = Proposer(Tpe().build, definition.space.variables, definition.maximized, 9)
    next(proposer.stream(0, 0, trials))
    assert all(opened.trial_folder(trial.number).is_relative_to(folder) for trial in trials)


def mutants(lines: list[Any], seed: int, most: int) -> Iterator[list[Any]]:
    draw = random.Random(seed)
    for _ in range(most):
        number = draw.randrange(len(lines))
        path = draw.choice(list(places(lines[number])))
        yield [*lines[:number], put(lines[number], path, draw.choice(ODD)), *lines[number + 1 :]]


@pytest.mark.slow
@pytest.mark.parametrize("name", [JOURNAL, "trials/0000/outcome.json", SETTINGS])
def test_a_mutated_folder_is_read_or_refused_with_a_message(study: Path, name: str) -> None:
    lines = [json.loads(line) for line in (study / name).read_text().splitlines()]
    for mutant in mutants(lines, 0, 60):
        (study / name).write_text("".join(json.dumps(line) + "\n" for line in mutant))
        try:
            use(study)
        except (UserError, Failure) as error:
            assert str(error).isprintable() and len(str(error)) < 2000


@pytest.mark.parametrize("line", [b"", b"{", b"[]\n", b"3\n", b'{"op_code": 99}\n', b"\xff\n", b"[" * 100_000 + b"\n",
                                  b'{"op_code": 1, "study_id": 0, "worker_id": "x"}\n'])  # fmt: skip
def test_damaged_lines_of_the_journal(study: Path, line: bytes) -> None:
    (study / JOURNAL).write_bytes((study / JOURNAL).read_bytes() + line)
    with suppress(UserError):
        use(study)
    (study / JOURNAL).write_bytes(line)
    with pytest.raises(UserError, match=JOURNAL):
        use(study)


SPACE_ODD: list[Callable[[Any], str]] = [str, json.dumps, lambda odd: f"[{odd}]", lambda odd: f"{{int: [0, {odd}]}}"]


@pytest.mark.slow
def test_a_mutated_space_is_read_or_refused_with_a_message(study: Path, tmp_path: Path) -> None:
    definition = read_definition(study / "space.yaml")
    said = {**definition.document.data, "budget": ["params <= 1e9"], "pruner": {"kind": "halving", "min_steps": 3}}
    said["space"] |= {"train.lr": {"log": [1e-3, 1e-2]}, "model.width": {"int": [16, 32], "step": 16}}
    (tmp_path / "new").mkdir()
    draw = random.Random(1)
    paths = list(places(said))
    for number in range(90):
        text = json.dumps(put(said, draw.choice(paths), draw.choice([*ODD, 10**299, "1e999 <= 3", "{a}", [1, 2**60]])))
        file = write_space(tmp_path, text)
        with suppress(UserError):
            create(read_definition(file), tmp_path / "new" / str(number), None)


@pytest.mark.parametrize("missing", [None, math.nan, math.inf, -math.inf])
def test_rows_without_a_finite_value_are_not_compared(missing: float | None) -> None:
    values = [[2.0, 1.0], [missing, 0.0], [1.0, 2.0], [0.0, missing], [3.0, 3.0]]
    assert pareto_front(values, [False, False]) == [0, 2]
    assert rank(values, [False, False]) == [2, 0, 4, 1, 3]
    assert pareto_front([[missing]], [True]) == [] and rank([[missing], [1.0]], [True]) == [1, 0]


@pytest.mark.parametrize("missing", [None, math.nan])
def test_a_trial_without_a_value_is_failed_and_not_ranked_first(tmp_path: Path, missing: float | None) -> None:
    from hybridkit.search.outcome import Outcome

    study = new_study(tmp_path, SEQUENCES + "sampler: random\ntrial: {seeds: 2}\ntrials: 2\n")
    for figures in ([{"val_loss": 1.0}, {"val_loss": missing}], [{"val_loss": 2.0}, {"val_loss": 2.0}]):
        trial = study.begin()
        assert trial
        study.end(trial, Outcome(figures))
    found = results(study)
    assert [row.trial.number for row in found.rows] == [1] and found.trials[0].state == "failed"
    assert "val_loss" in found.trials[0].reason
    lines = (study.folder / JOURNAL).read_text().replace("[[2.0],[2.0]]", f"[[2.0],[{json.dumps(missing)}]]")
    (study.folder / JOURNAL).write_text(lines)
    found = results(open_study(study.folder))
    assert found.best is None and found.count("failed") == 2, "a study of an older version may hold one"


def test_an_unfinished_study_has_a_report_and_no_best(tmp_path: Path) -> None:
    study = new_study(tmp_path, SEQUENCES + "sampler: random\ntrials: 2\n")
    for _ in range(2):
        assert search("report", study.folder) is None
        assert isinstance(search("best", study.folder), Failure)
        study.begin()


@pytest.mark.slow
def test_a_storage_of_many_machines_is_named_every_time(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    definition = read_definition(write_space(tmp_path, SEQUENCES + "sampler: random\ntrials: 2\n"))
    study = create(definition, tmp_path / "study", url)
    try_all(study, full_attention)
    assert url not in (study.folder / SETTINGS).read_text()
    assert len(resume(definition, study.folder, url).trials()) == 2
    assert search("best", study.folder, "--storage", url) is None
    refused("cannot be opened", "best", study.folder, "--storage", f"sqlite:///{tmp_path}/other.db")
