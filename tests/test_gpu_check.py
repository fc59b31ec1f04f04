"""`tools/gpu_check.py`: what a section measured before its limit is kept, and results are whole after every section."""

import argparse
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from project import ROOT

SECTIONS = """
import sys, time
with open(sys.argv[2], "w") as rows:
    rows.write('{"window": "128", "tokens_per_second": 45123.4, "failed": ""}\\n')
    rows.write('{"window": "20')
if sys.argv[1] == "training":
    time.sleep(60)
sys.exit("no such kernel" if sys.argv[1] == "gate" else 0)
"""


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "tools" / "gpu_check.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "gpu_sections.py").write_text(SECTIONS, encoding="utf-8")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "gpu_check.py"))
    monkeypatch.setitem(module.LIMITS, "training", 0.7)
    return module


def test_a_section_that_ends_late_or_badly_keeps_its_rows(check: ModuleType, tmp_path: Path) -> None:
    given = argparse.Namespace(out=tmp_path, device="cpu", small=True, slower=1.0)
    report = {"device": "cpu", "small": True, "date": "2026-11-26", "machine": check.machine(), "sections": []}
    report["versions"] = check.versions()
    for name in ("doctor", "gate", "training"):
        report["sections"].append(check.run_section(name, given))
        check.write(tmp_path, report)
        assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["sections"][-1]["section"] == name
    done, failed, late = report["sections"]
    assert done["ended"] == "done" and "no such kernel" in failed["ended"] and "limit of 1 s" in late["ended"]
    assert all(len(section["rows"]) == 1 for section in report["sections"]), "half a line is no row"
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert text.count("| 128 | 45,123 |") == 3 and "## training" in text


def test_targets_stand_beside_what_was_measured(check: ModuleType) -> None:
    rows = [
        {"recipe": "paper/swax-stochastic-1.4b", "window": window, "options": "{}", "tokens_per_second": speed}
        for window, speed in (("128", 50_000.0), ("2048", 30_000.0), ("128, 2048", 37_500.0))
    ]
    failed = {"recipe": "paper/xlstm-1.4b", "window": "None", "options": "{}", "tokens_per_second": None}
    table = check.table({"small": False, "sections": [{"section": "training", "rows": [*rows, failed]}]})
    assert "| at least 45,000 | 20,411 | 50,000 | reached |" in table
    assert "| windows that take turns, over their mean | at least 0.98 | - | 1 | reached |" in table
    assert table.count("not measured") == len(table.splitlines()) - 2 - 3
    table = check.table(
        {"small": False, "sections": [{"section": "inference", "rows": [rows[0] | {"rows": 1, "decode": 500.0}]}]}
    )
    assert "| at least 600 | 218 (38 without a graph) | 500 | missed |" in table


def test_limits_are_those_that_were_promised(check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # of the fixture, which shortens one
    names = list(check.LIMITS)
    assert sum(check.LIMITS[name] for name in names[: names.index("inference") + 1]) <= 8 * 60
    assert check.LIMITS["peers"] + check.LIMITS["profile"] <= 5 * 60
