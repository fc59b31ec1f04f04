"""What the folder of a conversion says of it, and that a damaged one is told in words."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from converted import Convert

import hybridkit as hk
from hybridkit.convert.record import read_conversion
from hybridkit.report.conversion_page import conversion_stages, mapping_part
from hybridkit.runs.run import Run
from hybridkit.system.errors import UserError


@pytest.mark.slow
def test_stages_layers_and_losses_are_those_of_the_runs(whole: Path) -> None:
    record = read_conversion(whole)
    assert record and not record.evaluations and record.choice is None
    runs = record.runs()
    lines = {stage.name: run.metrics().lines for stage, run in zip(record.stages, runs, strict=True)}
    table = conversion_stages(record, runs, lines)
    rows = {row[0]: row[1:] for row in table.rows}
    assert table.columns == ["", "1-hidden", "2-kl-ce", "3-ce"]
    assert rows["steps"] == ["4 of 4", "4 of 4", "3 of 3"]
    assert rows["trains"] == ["the new mixers", "all weights", "all weights"]
    assert rows["minimizes"] == ["hidden", "0.9 kl+0.1 ce top 20", "ce"]
    held = Run(whole / "stages/1-hidden").last_line("val_loss")
    assert held and rows["last validation loss, nats a token"][0] == f"{held['val_loss']:.4g}"
    assert "mlstm in place of sa" in mapping_part(record)


def test_a_conversion_that_has_not_reached_its_last_stage_is_read_and_named(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole / "stages", folder / "stages")
    shutil.copy(whole / "conversion.json", folder)
    record = read_conversion(folder)
    assert record
    lines = {stage.name: run.metrics().lines for stage, run in zip(record.stages, record.runs(), strict=True)}
    assert ["tokens", "256", "256", "-"] in conversion_stages(record, record.runs(), lines).rows
    with pytest.raises(UserError, match=r"a conversion whose last stage has not begun.*--resume"):
        _ = Run(folder).recipe


def test_train_does_not_go_on_with_a_stage(whole: Path) -> None:
    stage = whole / "stages" / "1-hidden"
    recipe = {**Run(stage).recipe.recipe.model_dump(mode="json", by_alias=True)}
    recipe["train"]["steps"] = 5
    with pytest.raises(UserError, match="this run is trained on 1 hidden, and what was asked for is cross-entropy"):
        hk.train(recipe, stage, resume=True, quiet=True)


WRONG = {  # what the record holds, and what the message says
    "no JSON": (lambda said: "{", "conversion cannot be read .conversion.json: Expecting"),
    "no stages": (lambda said: json.dumps({**said, "stages": []}), "stages has too few values"),
    "another folder": (
        lambda said: json.dumps({**said, "stages": [{**said["stages"][0], "name": "../x"}]}),
        r"stages\.0\.name is not what belongs here",
    ),
    "twice": (lambda said: json.dumps({**said, "stages": said["stages"][:1] * 2}), "two stages have one name"),
    "no such layer": (
        lambda said: json.dumps({**said, "layers": [{**said["layers"][0], "entry": 99}]}),
        "its record names layers that .* does not have",
    ),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=WRONG)
def test_a_record_that_says_something_else_is_refused_in_words(
    content: Callable[[dict[str, Any]], str], message: str, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole / "stages/0-mapped", tmp_path / "stages/0-mapped")
    said = json.loads((whole / "conversion.json").read_text("utf-8"))
    (tmp_path / "conversion.json").write_text(content(said), "utf-8")
    with pytest.raises(UserError, match=message):
        record = read_conversion(tmp_path)
        assert record
        mapping_part(record)


CRAFTED: list[Callable[[dict[str, Any]], dict[str, Any]]] = [
    lambda said: {**said, "teacher": 1e308},
    lambda said: {**said, "stages": [0.5]},
    lambda said: {**said, "layers": [[]]},
    lambda said: {**said, "layers": [{**said["layers"][0], "notes": [True]}]},
    lambda said: {**said, "layers": [{**said["layers"][0], "entry": 2**70}]},
    lambda said: {**said, "code": []},
]


@pytest.mark.parametrize("craft", CRAFTED)
def test_a_crafted_record_is_not_resumed(
    craft: Callable[[dict[str, Any]], dict[str, Any]], whole: Path, go: Convert, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    file = tmp_path / "run/conversion.json"
    file.write_text(json.dumps(craft(json.loads(file.read_text("utf-8")))), "utf-8")
    with pytest.raises(UserError, match=r"its record names layers|the record of its conversion cannot be read"):
        go(tmp_path / "run", resume=True)
