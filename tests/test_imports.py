"""Who imports whom: the contracts of pyproject.toml, and that they catch what they should (docs/architecture.md)."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from project import ROOT

LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"
PLANTED = {  # the module, what it imports, and how
    ("errors", "cli"): "def late():\n    from hybridkit.cli import main\n",
    ("files", "report.show"): "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import hybridkit.report.show\n",
}


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, '.'); {LINT}"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_imports_point_downwards() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_planted_imports_upwards_are_caught_lazy_ones_and_those_for_types_alone(tmp_path: Path) -> None:
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "hybridkit", tmp_path / "hybridkit", ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for (name, _), code in PLANTED.items():
        with (tmp_path / f"hybridkit/system/{name}.py").open("a") as file:
            file.write(code)
    done = lint(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    for name, imported in PLANTED:
        assert f"hybridkit.system.{name} -> hybridkit.{imported} " in done.stdout, done.stdout


def test_the_page_on_architecture_has_the_checked_order() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    floors = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    page = (ROOT / "docs/architecture.md").read_text("utf-8")
    assert re.findall(r"(?m)^\| `([a-z]+)/` \|", page) == floors
