"""docs/notebook.ipynb runs from its first cell to its last, and its cells give something."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from project import ROOT


@pytest.mark.slow
def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYBRIDKIT_CACHE", str(tmp_path / "cache"))
    notebook = json.loads((ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4 and not any(cell.get("outputs") for cell in notebook["cells"])
    names: dict[str, Any] = {}
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for source in cells:
        tree = ast.parse(source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "cell", "exec"), names)
        if last:
            assert eval(compile(ast.Expression(last.value), "cell", "eval"), names), source
    assert names["run"].checkpoints[-1] == 80
