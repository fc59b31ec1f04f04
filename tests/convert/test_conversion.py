"""A conversion: what its folder holds, and that it resumes bit for bit."""

import json
import random
import re
import shutil
import signal
import time
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from checkpoint import LLAMA, instance, opened, save
from command_line import hybridkit
from compare import assert_same
from converted import STAGES, Change, Convert, stages
from forked import COMMAND_LINE, Forked, forked
from page_checks import check_page

import hybridkit as hk
from hybridkit.convert.conversion import run_conversion
from hybridkit.convert.stage_evaluation import stage_evaluations
from hybridkit.recipe.files import dump, read_mapping
from hybridkit.runs.manifest import read_manifest
from hybridkit.runs.run import Run
from hybridkit.system.errors import UserError
from hybridkit.system.notices import listening
from hybridkit.training.loop import Loop
from hybridkit.training.reporter import Silent

STEPS = sum(int(str(stage["steps"])) for stage in STAGES)


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of the program runs after it."""


def test_the_folder_is_the_last_stages_run_and_the_others_lie_in_it(whole: Path, teacher: Path) -> None:
    mapped, first, second, last = stages(whole)
    assert [run.path.name for run in (mapped, first, second)] == ["0-mapped", "1-hidden", "2-kl-ce"]
    assert last.recipe.recipe.data.sequence == 32 and hk.load(whole).write("win", tokens=3)
    before, after = mapped.weights(), first.weights()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith(("layers.0.", "layers.2.")) for name in changed)  # the new mixers
    sha = read_manifest(Run(teacher).newest().checkpoint.folder).files["model.safetensors"].sha256  # type: ignore[union-attr]
    entries = [run.newest().manifest.entries for run in (first, second, last)]  # type: ignore[union-attr]
    assert [one.get("teacher") for one in entries] == [sha, sha, None]
    assert [one.get("objective") for one in entries] == ["1 hidden", "0.9 kl+0.1 ce top 20", None]
    assert json.loads((whole / "conversion.json").read_text())["teacher"]["sha256"] == sha
    told = [run.metrics().lines[0] for run in (first, second)]
    assert {"mse.0", "mse.2", "teacher_power"} <= told[0].keys() and {"kl", "ce"} <= told[1].keys()


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 3, 6, 10])
def test_interrupted_anywhere_and_resumed_it_is_the_same(
    after: int, whole: Path, go: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, step = 0, Loop._step

    def counted(self: Loop) -> bool:
        nonlocal steps
        if steps == after:
            raise Killed
        steps += 1
        return step(self)

    monkeypatch.setattr(Loop, "_step", counted)
    with pytest.raises(Killed):
        go(tmp_path / "run")
    monkeypatch.undo()
    go(tmp_path / "run", resume=True)
    for run, other in zip(stages(tmp_path / "run"), stages(whole), strict=True):
        assert_same(run, other)


@pytest.mark.slow
def test_killed_at_random_moments_of_every_stage_it_is_the_same(
    whole: Path, teacher: Path, student: Change, tmp_path: Path
) -> None:
    recipe, folder, draw = tmp_path / "student.yaml", tmp_path / "run", random.Random()
    recipe.write_text(dump(read_mapping(student(), {}).recipe), encoding="utf-8")
    words = ["convert", str(teacher), str(recipe), "--run", str(folder), "--resume", "--no-evaluate"]
    done = 0
    for stage in STAGES:
        at = done + draw.randrange(int(str(stage["steps"])))
        with Forked(COMMAND_LINE, *words) as process:
            while _lines(folder) <= at and process.poll() is None:
                time.sleep(0.002 * draw.random())
            process.kill()
            said = process.communicate()[1]
        assert process.returncode in (-signal.SIGKILL, 0), said
        done += int(str(stage["steps"]))
    last = forked(COMMAND_LINE, *words)
    assert last.returncode == 0, last.stderr
    for run, other in zip(stages(folder), stages(whole), strict=True):
        assert_same(run, other)


def _lines(folder: Path) -> int:
    """Steps that all stages have written so far."""
    files = [folder / "metrics.jsonl", *folder.glob("stages/*/metrics.jsonl")]
    return sum(file.read_text().count('"loss"') for file in files if file.is_file())


@pytest.mark.slow
def test_transformers_in_and_transformers_out(student: Change, tmp_path: Path) -> None:
    source = save(instance("Llama", **LLAMA | {"num_hidden_layers": 2, "tie_word_embeddings": False}), tmp_path / "in")
    recipe = student(
        pattern="[swa(kv_heads=2):8, sa(kv_heads=2)]",
        model={"width": 32, "heads": 4, "norm_eps": 1e-5, "ffn": {"block": "ffn", "width": 48}},
        convert={"stages": [{"loss": "kl", "steps": 1}], "evaluate": {"context": 32, "decode": 2}},
    )
    (tmp_path / "r.yaml").write_text(dump(read_mapping(recipe, {}).recipe), encoding="utf-8")
    made = hybridkit("convert", str(source), "r.yaml", "--run", "run", "--json", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    found = json.loads(made.stdout)
    names = [one["name"] for one in found["evaluations"]]
    assert names == ["teacher", "0-mapped", "1-kl"] and found["evaluations"][-1]["decode_tokens_per_second"] > 0
    assert hybridkit("report", "run", cwd=tmp_path).returncode == 0
    check_page(page := (tmp_path / "run/report.html").read_text("utf-8"))
    for said in (
        "Stages",
        "What every mixer began with",
        "Teacher and student, on held-out text",
        "of the teacher&#x27;s",
    ):
        assert said in page
    assert re.search(r"swa\(kv_heads=2\):8 in place of sa</td>", page) and "<td>kl</td>" in page
    assert hybridkit("export", "run", "out", cwd=tmp_path).returncode == 0
    ids = torch.randint(257, (1, 20), generator=torch.Generator().manual_seed(0))
    ours, _ = hk.load(tmp_path / "run")(ids)
    theirs = opened(tmp_path / "out", trust_remote_code=True)(ids).logits
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-4)  # another order of sums, in fp32


@pytest.mark.slow
def test_other_questions_are_asked_of_every_stage_again(teacher: Path, student: Change, tmp_path: Path) -> None:
    """What was measured of the teacher before a change is not shown beside what is measured of a stage after it."""
    asked = []
    for context in (16, 32):
        how = {"stages": [{"loss": "ce", "steps": 1}], "evaluate": {"context": context, "decode": 2}}
        hk.convert_model(
            teacher, student(convert=how), tmp_path / "run", evaluate=True, quiet=True, resume=context > 16
        )
        found = stage_evaluations(tmp_path / "run")
        asked.append([{row["context"] for row in one["by_position"]} for one in found])
    assert asked == [[{16}] * 3, [{32}] * 3]


def test_a_longer_last_stage_is_measured_again(teacher: Path, student: Change, tmp_path: Path) -> None:
    """What was measured of its weights before was shown as that of the new ones."""
    told = []
    for steps, evaluate in ((1, True), (2, True), (3, False)):
        how = {"stages": [{"loss": "ce", "steps": steps, "lr": 1e-2}], "evaluate": {"context": 16, "decode": 2}}
        hk.convert_model(
            teacher, student(convert=how), tmp_path / "run", evaluate=evaluate, quiet=True, resume=steps > 1
        )
        found = {one["name"]: one for one in stage_evaluations(tmp_path / "run")}
        told.append({name: one["origins"][one["run"]]["step"] for name, one in found.items()})
    before = {"teacher": 6, "0-mapped": 0}
    assert told == [{**before, "1-ce": 1}, {**before, "1-ce": 2}, before]


class Heard(Silent):
    """Keeps the messages of all stages."""

    said: ClassVar[list[str]] = []

    def message(self, text: str) -> None:
        self.said.append(text)


def test_what_is_changed_of_a_finished_stage_is_told(teacher: Path, student: Change, whole: Path) -> None:
    Heard.said.clear()
    recipe = read_mapping(student(convert={"stages": [{**STAGES[0], "lr": 0.5}, *STAGES[1:]]}), {})
    run_conversion(str(teacher), recipe, whole, resume=True, reporter=Heard)
    begin = "stage 1-hidden is finished; what was changed has no effect"
    told = [said for said in Heard.said if said.startswith(begin)]
    assert len(told) == 1 and "train.lr: " in told[0] and "0.5 now" in told[0]
    assert not any(said.startswith(("stage 2", "stage 3")) for said in Heard.said)


def test_a_damaged_newer_checkpoint_of_the_teacher_is_told(teacher: Path, student: Change, tmp_path: Path) -> None:
    copy, recipe = tmp_path / "teacher", student(convert={"stages": [{"loss": "ce", "steps": 1}]})
    shutil.copytree(teacher, copy)
    (copy / "checkpoints/step-6/model.safetensors").write_bytes(b"")
    Heard.said.clear()
    with listening(Heard.said.append):
        run_conversion(str(copy), read_mapping(recipe, {}), tmp_path / "run", resume=False, reporter=Heard)
    assert "teacher: the checkpoint of step 4, since newer ones cannot be used" in Heard.said[0]
    assert sum("newer ones" in said for said in Heard.said) == 1 and "step-6" in Heard.said[0]
    assert not any("holds no checkpoint yet" in said for said in Heard.said)  # that is for --resume


def test_a_mixer_that_is_kept_stays_the_teachers(student: Change, teacher: Path, tmp_path: Path) -> None:
    how = {"keep": "last 1", "stages": [{"loss": "hidden", "steps": 1}]}
    made = hk.convert_model(teacher, student(convert=how), tmp_path / "run", quiet=True, checkpoint=4)
    assert made.checkpoints == [1] and json.loads((made.path / "conversion.json").read_text())["teacher"]["step"] == 4
    with pytest.raises(UserError, match=r"another teacher \(step 4, .* at step 6\); name its checkpoint"):
        hk.convert_model(teacher, student(convert=how), tmp_path / "run", quiet=True, resume=True)
    assert Run(tmp_path / "run").recipe.recipe.pattern == "[swa:stoch(4,8), sa]"
    own, theirs = Run(tmp_path / "run").weights(), Run(teacher).weights(4)
    assert all(torch.equal(own[name], theirs[name]) for name in own if name.startswith("layers.2."))


@pytest.mark.slow
def test_kept_mixers_are_chosen_after_the_first_stage_and_once(
    go: Convert, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {"keep": "auto 1", "stages": STAGES[:1] + STAGES[2:]}
    made = go(tmp_path / "run", convert=how)
    table = json.loads((tmp_path / "run/choice.json").read_text())
    (mixer,) = (one["mixer"] for one in table["candidates"] if one["kept"])
    _, first, kept, last = stages(tmp_path / "run")
    pattern = ["[sa, mlstm]", "[swa:stoch(4,8), sa]"][mixer]
    assert (kept.path.name, kept.recipe.recipe.pattern, last.recipe.recipe.pattern) == ("1-kept", pattern, pattern)
    aligned, theirs, own = first.weights(), Run(teacher).weights(), kept.weights()
    for name, weight in own.items():
        source = aligned if name.startswith(f"layers.{2 - 2 * mixer}.") else theirs
        assert torch.equal(weight, source[name]), name
    assert made.stages[1].loaded.recipe.train.from_.run == str(kept.path.resolve())
    monkeypatch.setattr("hybridkit.convert.conversion.choose_and_write", None)  # nothing is chosen again
    go(tmp_path / "run", resume=True, convert=how)
    for wrong in ({**how, "keep": "auto 2"}, {**how, "stages": STAGES[2:]}):
        with pytest.raises(UserError, match=r"convert\.keep: auto"):
            go(tmp_path / "other", convert=wrong)
