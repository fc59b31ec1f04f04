"""A mixer from a plug-in in a student: its own rule, its hash in every stage, and that another one is refused."""

import json
from pathlib import Path

import pytest
import torch
from converted import Change, stages
from plugins import new_process

from hybridkit.cli.options import _add_plugins
from hybridkit.convert.conversion import run_conversion
from hybridkit.convert.record import read_conversion
from hybridkit.recipe.files import dump, read_mapping
from hybridkit.report.conversion_page import mapping_part
from hybridkit.runs.run import Run, load_recipe
from hybridkit.system.errors import UserError
from hybridkit.training.reporter import Silent

pytestmark = pytest.mark.usefixtures("no_plugins")
MIXER = """\
from torch import nn
from hybridkit.block import Block, Layer

class _Values(Layer):
    def __init__(self, width):
        super().__init__()
        self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(2))

    def forward(self, x, state=None, *, window=None, document_starts=None):
        return self.out(self.value(x)), ()

class Own(Block):
    def build(self, dims): return _Values(dims.width)
    def flops(self, dims, tokens, window=None, count="exact"): return 4 * dims.width**2 * tokens
    def from_attention(self, attention, dims):
        return [attention.start("v.weight", "value.weight"), attention.start("out.weight")]
"""
STAGES = [{"loss": "hidden", "steps": 1}, {"loss": "ce", "steps": 1}]


@pytest.mark.slow
def test_it_is_mapped_by_its_own_rule_kept_in_every_stage_and_not_exchanged(
    teacher: Path, student: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").write_text(MIXER)
    _add_plugins([tmp_path / "own.py"])
    changes: dict[str, object] = {"pattern": "[own, sa]", "convert": {"stages": STAGES}}
    first = tmp_path / "run" / "stages" / "0-mapped"
    (tmp_path / "r.yaml").write_text(dump(read_mapping(student(**changes), {}).recipe))

    def go(source: Path, overrides: tuple[str, ...] = (), run: Path | None = None) -> None:
        loaded = load_recipe(tmp_path / "r.yaml", overrides, run)
        run_conversion(str(source), loaded, tmp_path / "run", resume=run is not None, reporter=Silent)

    go(teacher)
    theirs, own = Run(teacher).weights(), Run(first).weights()
    assert torch.equal(own["layers.0.own.value.weight"], theirs["layers.0.sa.v.weight"])
    codes = [run.newest().manifest.code for run in stages(tmp_path / "run")]  # type: ignore[union-attr]
    assert len(codes) == 3 and all(code == codes[0] and list(code) == ["own.py"] for code in codes)
    assert json.loads((tmp_path / "run/conversion.json").read_text())["code"] == codes[0]

    new_process(monkeypatch)  # without --plugin: the run's own copies, which this user trusts
    more = ("convert.stages=[{loss: hidden, steps: 1}, {loss: ce, steps: 2}]",)
    go(teacher, more, first)
    assert Run(tmp_path / "run").newest().checkpoint.step == 2  # type: ignore[union-attr]
    record = read_conversion(tmp_path / "run")
    assert record and "own in place of sa" in mapping_part(record)

    new_process(monkeypatch)
    (tmp_path / "own.py").write_text(MIXER.replace("4 * dims", "8 * dims"))
    _add_plugins([tmp_path / "own.py"])
    said = rf"own\.py is not what .* was trained with: .* {codes[0]['own.py']} in the run"
    with pytest.raises(UserError, match=said):
        go(teacher, more, first)
