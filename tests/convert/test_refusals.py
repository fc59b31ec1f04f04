"""Conversions that are refused before anything is trained, and those that must not go on."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from converted import STAGES, Change, Convert

import hybridkit as hk
from hybridkit.convert import conversion
from hybridkit.convert.estimate import estimate_conversion
from hybridkit.convert.stages import cache_folder
from hybridkit.convert.teacher import open_teacher
from hybridkit.hub.export import export_run
from hybridkit.recipe.files import read_mapping
from hybridkit.runs.run import Run
from hybridkit.system.errors import UserError

WRONG = {
    "vocabulary": ({"model": {"width": 16, "heads": 2, "vocab": 300}}, "vocab: the teacher has 257, the student 300"),
    "width": ({"model": {"width": 32, "heads": 2}}, "width: the teacher has 16, the student 32"),
    "depth": ({"pattern": "[swa:4]*3"}, "the teacher has 2 mixers and 2 FFNs, the student 3"),
    "nothing new": ({"pattern": "sa*2"}, "every mixer is as the teacher has it"),
    "no mapping": ({"pattern": "[conv, sa]"}, "entry 0: the teacher's is sa, the student's conv"),
    "no section": ({"convert": None}, "has no section `convert`"),
    "window": ({"convert": {"stages": [{"loss": "ce", "window": "stoch(8"}]}}, "convert.stages.0.window: stoch(8"),
    "no window": (
        {"pattern": "[mlstm, sa]", "convert": {"stages": [{"loss": "ce", "window": 8}]}},
        "no block of [mlstm, sa] has a window",
    ),
    "text": ({"convert": {"stages": [{"loss": "ce", "sequence": 64 * 1024, "batch_tokens": 64 * 1024}]}}, "needs"),
    "from": ({"train": {"from": "x"}}, "train.from: a conversion begins with its teacher's weights"),
    "nothing trained": (
        {"train": {"steps": 6, "batch_tokens": 64, "freeze": {"swa": 9, "mlstm": 9}}},
        "convert.stages.0: train.freeze: every weight is frozen in all 4 steps",
    ),
    "top_k": ({"convert": {"stages": [{"loss": "kl", "top_k": 258}]}}, "top_k: 258: the vocabulary has 257 tokens"),
    "until": (
        {"train": {"batch_tokens": 64, "until": {"metric": "recall", "at_least": 1}}},
        "convert.stages.0: train.until: nothing measures recall",
    ),
    "keep": ({"convert": {"keep": [2], "stages": STAGES}}, "convert.keep: 2: the teacher's mixers are 0 to 1"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_converted_is_refused_before_anything_is_written(what: str, go: Convert, tmp_path: Path) -> None:
    changes, message = WRONG[what]
    with pytest.raises(UserError) as caught:
        go(tmp_path / "run", **changes)
    assert message in str(caught.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("what", ["nothing trained", "top_k", "until"])
def test_a_dry_run_refuses_it_in_the_same_words(what: str, teacher: Path, student: Change, tmp_path: Path) -> None:
    changes, message = WRONG[what]
    with pytest.raises(UserError) as caught:
        estimate_conversion(str(teacher), read_mapping(student(**changes), {}), 1, tmp_path)
    assert message in str(caught.value)


def test_a_damaged_or_missing_checkpoint_of_a_stage_is_named(whole: Path, go: Convert, tmp_path: Path) -> None:
    for name in ("damaged", "missing", "all missing"):
        shutil.copytree(whole, folder := tmp_path / name)
        last = max((folder / "stages/1-hidden/checkpoints").iterdir(), key=lambda path: int(path.name[5:]))
        if name == "damaged":
            (last / "model.safetensors").write_bytes(b"no weights")
        else:
            shutil.rmtree(last if name == "missing" else last.parent)
        with pytest.raises(UserError, match=r"1-hidden: the last checkpoint of stage 1-hidden") as caught:
            go(folder, resume=True)
        said = "is damaged:\n  step-4: " if name == "damaged" else "is missing\nput it back"
        assert said in str(caught.value) and "as they were" not in str(caught.value)


def test_deepspeed_freezes_nothing_that_its_ranks_share(go: Convert, student: Change, tmp_path: Path) -> None:
    train = {**student()["train"], "engine": "deepspeed"}  # type: ignore[dict-item]
    with pytest.raises(UserError, match=r"convert.stages.0: train.freeze: stage 1 of ZeRO"):
        go(tmp_path / "run", train=train)


def test_another_teacher_other_stages_and_begun_folders_are_refused(
    whole: Path, go: Convert, student: Change, teacher: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="holds a conversion; go on with it with --resume"):
        go(whole)
    with pytest.raises(UserError, match="holds a run that is no conversion"):
        go(teacher, resume=True)
    with pytest.raises(UserError, match=r"begun with other stages \(1-hidden, 2-kl-ce, 3-ce; now 1-hidden, 2-kl"):
        go(whole, resume=True, convert={"stages": [STAGES[0], {**STAGES[1], "loss": "kl"}, STAGES[2]]})
    with pytest.raises(UserError, match=r"begun with other stages \(2-kl-ce: window: none; now 8\)"):
        go(whole, resume=True, convert={"stages": [STAGES[0], {**STAGES[1], "window": 8}, STAGES[2]]})
    with pytest.raises(UserError, match=r"begun with another convert.keep \(none; now \[0\]\)"):
        go(whole, resume=True, convert={"stages": STAGES, "keep": [0]})
    with pytest.raises(UserError, match=r"begun with another pattern \(\[swa:stoch\(4,8\), mlstm\]; now swa:4\*2"):
        go(whole, resume=True, pattern="swa:4*2")
    with pytest.raises(UserError, match=r"convert.stages.0.steps: stage 1-hidden would go on"):
        go(whole, resume=True, convert={"stages": [{**STAGES[0], "steps": 9}, *STAGES[1:]]})
    hk.train(student(pattern="sa*2", convert=None), tmp_path / "other", overrides={"train.steps": 1}, quiet=True)
    with pytest.raises(UserError, match="is a conversion of another teacher"):
        go(whole, resume=True, source=tmp_path / "other")
    with pytest.raises(UserError, match=r"a folder of runs \(other\), not the place of one"):
        go(tmp_path)


def test_a_teacher_of_the_same_weights_and_another_recipe_is_another_one(
    whole: Path, go: Convert, teacher: Path, tmp_path: Path
) -> None:
    shutil.copytree(teacher, tmp_path / "other")
    recipe = tmp_path / "other" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("pattern: sa*2", "pattern: swa:8*2"))
    with (
        pytest.warns(UserWarning, match=r"recipe\.yaml is not the recipe .*: pattern is swa:8\*2, and was sa\*2"),
        pytest.raises(UserError, match="has the same weights, and another recipe, tokenizer or plug-in than when"),
    ):
        go(whole, resume=True, source=tmp_path / "other")
    train = Run(teacher).recipe.recipe.train
    bf16 = train.model_copy(update={"precision": "bf16"})
    ours, theirs = (open_teacher(str(run), tmp_path) for run in (teacher, tmp_path / "other"))
    asked = [(ours, train, 20), (ours, train, 21), (ours, bf16, 20), (theirs, train, 20)]
    assert len({cache_folder(*one) for one in asked}) == len(asked)  # no logits of one are read for another


@pytest.fixture(scope="module")
def exports(teacher: Path, student: Change, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two folders of transformers with the same config and other weights."""
    place = tmp_path_factory.mktemp("exports")
    hk.train(student(pattern="sa*2", convert=None), place / "run", overrides={"train.steps": 1}, quiet=True)
    for run, name in ((teacher, "a"), (place / "run", "b")):
        export_run(run, place / name)
    return [place / "a", place / "b"]


SHORT = {"stages": [{"loss": "kl", "steps": 1}]}


def test_what_another_teacher_left_behind_is_not_used(exports: list[Path], go: Convert, tmp_path: Path) -> None:
    """The student was taught by the first folder, whose conversion had failed after the import."""
    first, second = exports
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="top_k: 258"):
        go(tmp_path / "run", source=first, convert={"stages": [{"loss": "kl", "top_k": 258}]})
    assert (tmp_path / "run/teacher").is_dir()
    go(tmp_path / "run", source=second, convert=SHORT)
    made, theirs = Run(tmp_path / "run/teacher").weights(), Run(second.parent / "run").weights()
    assert all(torch.equal(made[name], weight) for name, weight in theirs.items())


def test_a_conversion_goes_on_with_its_own_folder_of_transformers_or_the_copy(
    exports: list[Path], go: Convert, tmp_path: Path
) -> None:
    first, second = exports
    go(tmp_path / "run", source=first, convert=SHORT)
    longer = {"stages": [{"loss": "kl", "steps": 2}]}
    for other, message in ((second, "is not what .*run/teacher, the teacher"), (tmp_path / "none", "none: no such")):
        with pytest.raises(UserError, match=message):
            go(tmp_path / "run", resume=True, source=other, convert=longer)
    assert go(tmp_path / "run", resume=True, source=first, convert=longer).stages[0].done
    again = {"stages": [{"loss": "kl", "steps": 3}]}
    assert go(tmp_path / "run", resume=True, source=tmp_path / "run/teacher", convert=again).stages[0].done
    (tmp_path / "run/teacher/source").unlink()  # as older versions left it
    assert go(tmp_path / "run", resume=True, source=second, convert=again).stages[0].done


def test_the_first_stage_is_not_longer_once_mixers_were_chosen_by_it(
    go: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {"keep": "auto 1", "stages": [{"loss": "hidden", "steps": 1}, {"loss": "ce", "steps": 1}]}
    trained = conversion.run_training
    monkeypatch.setattr(conversion, "run_training", lambda *args, **more: _once(trained, tmp_path, *args, **more))
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run", convert=how)
    monkeypatch.undo()
    assert (tmp_path / "run/choice.json").is_file()
    longer = {**how, "stages": [{"loss": "hidden", "steps": 2}, {"loss": "ce", "steps": 1}]}
    with pytest.raises(UserError, match=r"convert.stages.0.steps: stage 1-hidden would go on"):
        go(tmp_path / "run", resume=True, convert=longer)
    assert go(tmp_path / "run", resume=True, convert=how).stages[1].done


def _once(train: Callable[..., None], place: Path, *args: Any, **more: Any) -> None:
    """Trains what is not the last stage; stands for a kill before that one."""
    if args[1] == place / "run":
        raise KeyboardInterrupt
    train(*args, **more)


def test_questions_that_suit_no_model_are_refused_before_anything_is_written(
    teacher: Path, student: Change, tmp_path: Path
) -> None:
    questions = {
        "recall": ([8], "recall: .* is trained on text"),
        "windows": ([8], r"windows: no block of \[sa, mlstm"),
    }
    for name, (asked, message) in questions.items():
        recipe = student(pattern="[sa, mlstm]", convert={"stages": STAGES, "evaluate": {name: asked}})
        with pytest.raises(UserError, match=rf"convert.evaluate.*{message}"):
            hk.convert_model(teacher, recipe, tmp_path / "run", evaluate=True, quiet=True)
        assert not (tmp_path / "run").exists()
