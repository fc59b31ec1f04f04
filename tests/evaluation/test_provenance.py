"""Figures are of the run's own text, tokenizer and weights, or say in words that they are not."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from typer.testing import CliRunner

from hybridkit.cli import verbs
from hybridkit.data.tokenizer_choice import run_tokenizer
from hybridkit.data.tokenizers import _bpe as bpe
from hybridkit.evaluation.haystack import open_essays
from hybridkit.evaluation.request import EvalRequest
from hybridkit.evaluation.runner import needle_file
from hybridkit.evaluation.samples import Samples
from hybridkit.evaluation.target import open_eval_target
from hybridkit.runs.manifest import read_manifest, sealed, stamp
from hybridkit.runs.run import Run, load_recipe
from hybridkit.runs.weights import read_tensors
from hybridkit.system.errors import UserError
from hybridkit.training.reporter import Silent
from hybridkit.training.trainer import run_training

LINES = [f"line {n} says {n * n} and then {n % 7}\n" for n in range(400)]
TRAIN = "{steps: 2, batch_tokens: 128, precision: fp32, device: cpu, checkpoint_every: 1, validate_every: 2}"
TOKENS = 300
OTHER = "".join(LINES)[::-1]  # a tokenizer trained on it has as many tokens, and others


def write_text(folder: Path, parts: int = 8) -> None:
    folder.mkdir(exist_ok=True)
    for part in range(parts):
        (folder / f"{part}.txt").write_text("".join(LINES[part * 50 : part * 50 + 50]) or "something else\n" * 90)


def write_tokenizer(file: Path, text: str) -> None:
    made = bpe.train_bpe([text.encode()], TOKENS)
    made.save(file.parent)
    (file.parent / "tokenizer.json").replace(file)
    assert made.vocab == TOKENS


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYBRIDKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text, a tokenizer's file, and two runs: by that file, and by BPE trained on the text."""
    folder = tmp_path_factory.mktemp("made")
    write_text(folder / "text")
    write_tokenizer(folder / "own.json", "".join(LINES))
    for name, tokenizer in (("file", folder / "own.json"), ("trained", f"train({TOKENS})")):
        data = f"{{source: {folder / 'text'}, tokenizer: {tokenizer}, sequence: 16, validation: .2}}"
        said = f"pattern: [swa:4, mlstm]\nmodel: {{width: 16, heads: 2}}\ndata: {data}\ntrain: {TRAIN}\n"
        (folder / f"{name}.yaml").write_text(said)
        run_training(load_recipe(folder / f"{name}.yaml"), folder / name, resume=False, reporter=Silent())
    return folder


@pytest.fixture
def runs(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, in the same place, put back afterwards."""
    shutil.copytree(made, tmp_path / "kept")
    yield made  # type: ignore[misc]
    shutil.rmtree(made)
    shutil.copytree(tmp_path / "kept", made, copy_function=shutil.copy2)


def found(run: Path, *words: str) -> dict[str, Any]:
    context = [] if "--no-perplexity" in words else ["--context", "32"]
    said = ["eval", str(run), *context, "--device", "cpu", "--json", *words]
    done = CliRunner().invoke(verbs(), said, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def loss(answer: dict[str, Any]) -> tuple[float, bool]:
    ((row,),) = answer["perplexity"].values()
    return row["loss"], row["same_text"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["file", "trained"])
def test_what_becomes_of_the_tokenizer_outside_does_not_matter(runs: Path, name: str) -> None:
    before = loss(found(runs / name))
    assert before[1] is True
    write_tokenizer(runs / "own.json", OTHER)
    assert loss(found(runs / name)) == before
    (runs / "own.json").unlink()
    assert loss(found(runs / name)) == before
    run_training(load_recipe(runs / f"{name}.yaml", ["train.steps=3"]), runs / name, resume=True, reporter=Silent())


def test_a_replaced_copy_is_refused_with_both_hashes(runs: Path) -> None:
    copy = runs / "file/tokenizer.json"
    was = run_tokenizer(Run(runs / "file")).digest
    write_tokenizer(copy, OTHER)
    for words in (["eval"], ["generate", "x"], ["export", str(runs / "out")]):
        verb, *rest = words
        with pytest.raises(UserError) as raised:
            CliRunner().invoke(verbs(), [verb, str(runs / "file"), *rest], catch_exceptions=False)
        assert was in str(raised.value) and stamp(copy).sha256 in str(raised.value)
    copy.unlink()
    with pytest.raises(UserError, match="is missing"):
        open_eval_target(runs / "file")


@pytest.mark.parametrize("name", ["file", "trained"])
def test_other_text_is_read_by_the_run_s_own_tokenizer_and_said_to_be_other(runs: Path, name: str) -> None:
    write_text(runs / "text", parts=12)
    target = open_eval_target(runs / name)
    answer = found(runs / name)
    assert loss(answer)[1] is False
    (note,) = answer["notes"]
    assert target.text.digest in note and target.origin.trained_text in note and note.count("\n") == 0
    assert target.tokenizer.digest == answer["origins"][str(runs / name)]["tokenizer"]
    report = (runs / name / "eval/report.md").read_text()
    assert note in report and "| other |" in report
    with pytest.raises(UserError, match=target.origin.trained_text):
        run_training(load_recipe(runs / f"{name}.yaml", ["train.steps=9"]), runs / name, resume=True, reporter=Silent())


def test_resume_with_another_tokenizer_and_from_a_run_with_another_are_refused(runs: Path) -> None:
    theirs = run_tokenizer(Run(runs / "file")).digest
    write_tokenizer(runs / "own.json", OTHER)
    mine = stamp(runs / "own.json").sha256
    for folder, words, resume in (("file", ["train.steps=9"], True), ("new", [f"train.from={runs / 'file'}"], False)):
        with pytest.raises(UserError) as raised:
            run_training(load_recipe(runs / "file.yaml", words), runs / folder, resume=resume, reporter=Silent())
        assert theirs in str(raised.value) and mine in str(raised.value)
    assert "data.tokenizer=" in str(raised.value)
    own = [f"train.from={runs / 'file'}", f"data.tokenizer={runs / 'file/tokenizer.json'}"]
    run_training(load_recipe(runs / "file.yaml", own), runs / "new", resume=False, reporter=Silent())


@pytest.mark.slow
def test_a_run_goes_elsewhere_without_its_text(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "file", tmp_path / "elsewhere")
    assert loss(found(tmp_path / "elsewhere")) == loss(found(runs / "file"))
    shutil.rmtree(runs / "text")
    (runs / "own.json").unlink()
    with pytest.raises(UserError, match=r"its text is not here: data\.source.*--no-perplexity"):
        found(tmp_path / "elsewhere")
    done = CliRunner().invoke(verbs(), ["generate", str(tmp_path / "elsewhere"), "line", "--tokens", "3"])
    assert done.exit_code == 0, done.output
    assert found(tmp_path / "elsewhere", "--no-perplexity", *NEEDLES)["cells"]


NEEDLES = ("--needles", "niah_single_1", "--lengths", "1200", "--samples", "1", "--score", "forced")


def test_a_cache_of_answers_is_of_one_origin(runs: Path) -> None:
    """Another window, model, tokenizer, or other weights at the same step: another file."""
    run = Run(runs / "file")

    def file(window: int | None = None) -> Path:
        target = open_eval_target(run.path)
        digest = target.tokenizer.digest
        samples = Samples("niah_single_1", 1200, 42, target.tokenizer, digest, open_essays())
        return needle_file(target, samples, "ruler", window)

    files = [file(), file(window=4)]
    assert file() == files[0]
    recipe = run.recipe_file.read_text()
    run.recipe_file.write_text(recipe.replace("swa:4", "swa:5"))
    with pytest.warns(UserWarning, match="and was"):
        files.append(file())
    run.recipe_file.write_text(recipe)
    newest = next(run.checkpoints()).folder
    weights = read_tensors(newest / "model.safetensors")
    save_file({name: tensor * 1.5 for name, tensor in weights.items()}, newest / "model.safetensors")
    manifest = read_manifest(newest)
    changed = {**manifest.files, "model.safetensors": stamp(newest / "model.safetensors")}
    (newest / "manifest.json").write_bytes(sealed(manifest.model_copy(update={"files": changed})))
    files.append(file())
    other = manifest.model_copy(update={"files": changed, "tokenizer": None, "code": {"x.py": "0" * 64}})
    (newest / "manifest.json").write_bytes(sealed(other))
    write_tokenizer(run.path / "tokenizer.json", OTHER)
    files.append(file())
    assert len(set(files)) == len(files)


@pytest.mark.slow
def test_questions_add_up_newest_first(runs: Path) -> None:
    folder = runs / "file/eval"
    found(runs / "file")
    found(runs / "file", "--no-perplexity", *NEEDLES)
    found(runs / "file", "--no-perplexity", *NEEDLES, "--windows", "3")
    kept = json.loads((folder / "results.json").read_text())
    every = [kept, *kept["earlier"]]
    assert [[cell["window"] for cell in one["cells"]] for one in every] == [[3], [None], []] and every[2]["perplexity"]
    for name in ("report.md", "report.html"):
        report = (folder / name).read_text()
        assert "Held-out text" in report and "Needles" in report
    run_training(load_recipe(runs / "file.yaml", ["train.steps=3"]), runs / "file", resume=True, reporter=Silent())
    found(runs / "file")
    kept = json.loads((folder / "results.json").read_text())
    steps = [entry["origins"][str(runs / "file")]["step"] for entry in (kept, *kept["earlier"])]
    assert steps == [3, 2, 2, 2] and kept["earlier"][0]["cells"] and not kept["cells"]
    report = (folder / "report.md").read_text()
    weights = [entry["origins"][str(runs / "file")]["weights"][:12] for entry in (kept, *kept["earlier"])]
    assert weights[0] != weights[1] and report.index(weights[0]) < report.index(weights[1])


def test_what_an_older_run_does_not_record_is_said_unless_its_text_shows_it(runs: Path) -> None:
    for checkpoint in Run(runs / "file").checkpoints():
        manifest = read_manifest(checkpoint.folder)
        older = manifest.model_copy(update={"tokenizer": None, "code": None})
        (checkpoint.folder / "manifest.json").write_bytes(sealed(older))

    def notes() -> list[str]:
        target = open_eval_target(runs / "file")
        return list(target.notes(EvalRequest(context=32)))

    target = open_eval_target(runs / "file")
    several = {"one": str(runs / "text"), "two": str(runs / "text")}
    data = target.recipe.data.model_copy(update={"validation": several})
    mixed = replace(target, recipe=target.recipe.model_copy(update={"data": data}))
    assert any("held-out text is that of one alone" in note for note in mixed.notes(EvalRequest()))
    assert notes() == []  # the digest of the tokens covers the tokenizer
    write_tokenizer(runs / "file/tokenizer.json", OTHER)
    record, text = notes()
    assert "keeps no record of its tokenizer" in record and "is not what this run was trained on" in text
