"""`show` of runs, and what it says of folders that hold none."""

import json
from pathlib import Path

import pytest

from hybridkit.errors import UserError
from hybridkit.report.curves import curves_of


def test_a_folder_without_a_run_has_no_curves(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="quickstart is no run folder"):
        curves_of([tmp_path / "quickstart"])


def test_a_run_that_has_not_stepped_yet_has_an_empty_curve(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("pattern: sa\n")
    (curve,) = curves_of([tmp_path])
    assert json.loads(json.dumps(curve.summary())) == {
        "run": str(tmp_path),
        "step": 0,
        "tokens": 0,
        **dict.fromkeys(("loss", "val_loss", "val_bits_per_byte", "tokens_per_second")),
    }
