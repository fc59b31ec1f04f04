"""The scripts in tools/: each says how it is run, and imports what exists."""

import ast
import importlib
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from project import ROOT

FILES = sorted((ROOT / "tools").rglob("*.py"))
SCRIPTS = [file for file in FILES if '__name__ == "__main__"' in file.read_text("utf-8")]


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("file", FILES, ids=name)
def test_the_docstring_has_the_command_or_names_who_imports_the_file(file: Path) -> None:
    said = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
    if file in SCRIPTS:
        assert f"python {name(file)}" in said.replace("\n", " ")
    else:
        assert any(f"`{other.name}`" in said or name(other) in said for other in FILES if other.parent == file.parent)


@pytest.mark.parametrize("file", FILES, ids=name)
def test_what_a_tool_imports_of_this_project_exists(file: Path) -> None:
    beside = {other.stem: other for other in FILES if other.parent == file.parent}
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        if node.module.startswith("hybridkit"):
            module = importlib.import_module(node.module)
            for alias in node.names:  # a module of a package is an attribute of it only once something has imported it
                found = hasattr(module, alias.name) or find_spec(f"{node.module}.{alias.name}")
                assert found, ast.unparse(node)
        elif node.module in beside:
            source = ast.parse(beside[node.module].read_text("utf-8"))
            defined = {found.id for found in ast.walk(source) if isinstance(found, ast.Name)}
            defined |= {found.name for found in source.body if isinstance(found, ast.FunctionDef | ast.ClassDef)}
            assert {alias.name for alias in node.names} <= defined, ast.unparse(node)


START = """
import runpy, sys
for file in sys.argv[1:]:
    sys.argv, sys.path[0] = [file, "--help"], file.rpartition("/")[0]
    try:
        runpy.run_path(file, run_name="__main__")
    except SystemExit as ended:
        assert ended.code == 0, file
    except ModuleNotFoundError as error:
        assert error.name in ("mlstm_kernels", "transformers"), f"{file}: {error}"
"""


@pytest.mark.slow
def test_every_script_starts() -> None:
    """All in one process, which imports torch once."""
    done = subprocess.run([sys.executable, "-c", START, *SCRIPTS], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("usage:") >= len(SCRIPTS) - 4, done.stderr
