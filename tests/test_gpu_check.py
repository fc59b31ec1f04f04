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
    report = {"device": "cpu", "date": "2026-11-26", "versions": check.versions(), "sections": []}
    for name in ("doctor", "gate", "training"):
        report["sections"].append(check.run_section(name, given))
        check.write(tmp_path, report)
        assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["sections"][-1]["section"] == name
    done, failed, late = report["sections"]
    assert done["ended"] == "done" and "no such kernel" in failed["ended"] and "limit of 1 s" in late["ended"]
    assert all(len(section["rows"]) == 1 for section in report["sections"]), "half a line is no row"
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert text.count("| 128 | 45,123 |") == 3 and "## training" in text
