"""What may be imported where beside the order of floors (test_imports.py), and how large things may grow."""

import ast
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest
from project import ROOT

SOURCES = sorted(path for folder in ("hybridkit", "blocks", "tools", "tests") for path in (ROOT / folder).rglob("*.py"))

HOMES = {  # the folder that a library belongs to
    "lark": "language",
    "networkx": "model",
    "deepspeed": "training",
    "optuna": "search",
    "fvcore": "cost",
    "rich": "report",
    "matplotlib": "report",
}


@cache
def nodes(path: Path) -> list[ast.AST]:
    """A file's syntax tree, the module first; kept, since most tests here walk through all files."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports(path: Path) -> Iterator[str]:
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("path", sorted((ROOT / "blocks").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_blocks_know_only_the_vocabulary_and_what_they_share(path: Path) -> None:
    for module in imports(path):
        if module.startswith("hybridkit_blocks"):
            assert part(module) == "ops", f"a block imports another block: {module}"
        elif module.startswith("hybridkit"):
            assert part(module) == "block", f"a block imports {module}"


def test_a_library_has_one_home() -> None:
    for path in (ROOT / "hybridkit").rglob("*.py"):
        for module in imports(path):
            home = HOMES.get(module.split(".")[0])
            assert not home or path.relative_to(ROOT).parts[1] == home, f"{path} imports {module}"


def test_no_engine_part_imports_a_block_by_name() -> None:
    for path in (ROOT / "hybridkit").rglob("*.py"):
        for module in imports(path):
            assert not module.startswith("hybridkit_blocks."), f"{path} imports {module}"


def test_kernels_have_no_annotations_that_their_compiler_refuses() -> None:
    kernels = [
        (path, node)
        for path in SOURCES
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef) and "triton.jit" in map(ast.unparse, node.decorator_list)
    ]
    assert kernels
    for path, kernel in kernels:
        said = {ast.unparse(one.annotation) for one in kernel.args.args if one.annotation}
        assert said <= {"tl.constexpr"}, f"{path}, {kernel.name}: triton's compiler looks annotations up as values"


def test_files_and_functions_stay_small() -> None:
    large = [str(path) for path in SOURCES if path.read_text(encoding="utf-8").count("\n") > 300]
    for path in SOURCES:
        for node in nodes(path):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 50:
                large.append(f"{path}: {node.name}")
    assert not large, "files of more than 300 lines, functions of more than 50"


def test_the_wheel_has_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    folders = {"hybridkit": "hybridkit", "hybridkit_blocks": "blocks", "hybridkit_recipes": "recipes"}
    found = {
        ".".join([name, *path.parent.relative_to(ROOT / folder).parts])
        for name, folder in folders.items()
        for path in (ROOT / folder).rglob("*.*")
        if path.suffix in (".py", ".yaml") and "__pycache__" not in path.parts
    }
    assert set(project["tool"]["setuptools"]["packages"]) == found


SHARED_NAMES = {  # public names that may stand in several modules, and where: there they mean the same
    "hybridkit/cli/*.py hybridkit/api/*.py": {"train"},  # a verb is a command and a function
    "blocks/ops/*_kernels.py": {"agrees", "choose_kernel"},  # every file of kernels has these two
    "blocks/ops/*_step.py": {"agrees"},  # and so has a step's
    "blocks/ops/*_span.py": {"Inputs", "Saved", "forward", "backward"},  # and every file of a span's products these
}
COPIED = "hybridkit/hub/modeling"  # what exported folders hold: the same layers again, for a reader without hybridkit


def public_names(path: Path) -> Iterator[str]:
    """Functions, classes and names of types."""
    for node in ast.iter_child_nodes(nodes(path)[0]):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if re.fullmatch("[A-Z][a-z]+[A-Za-z0-9]*", name):
                yield name


def test_no_two_public_things_share_a_name() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in SOURCES:
        place = path.relative_to(ROOT).as_posix()
        if place.startswith(("hybridkit/", "blocks/")) and not place.startswith(COPIED):
            for name in public_names(path):
                places[name].append(place)
    for name, found in places.items():
        allowed = [glob for globs, names in SHARED_NAMES.items() if name in names for glob in globs.split()]
        elsewhere = [place for place in found if not any(fnmatch(place, glob) for glob in allowed)]
        assert len(found) == 1 or not elsewhere, f"{name} stands in {', '.join(found)}: give each its own name"


STRETCH = 9  # equal lines


def code_lines(path: Path) -> list[tuple[int, str]]:
    """The lines that say what is done, with their numbers: without blanks, comments, imports and signatures.

    Signatures are left out since a protocol has every block write `forward` and `init_state` with the same arguments.
    """
    text, passed = path.read_text(encoding="utf-8"), set[int]()
    for node in nodes(path):
        if isinstance(node, ast.Import | ast.ImportFrom):
            passed.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        elif isinstance(node, ast.FunctionDef):
            passed.update(range(node.lineno, node.body[0].lineno))
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if number not in passed)
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


@pytest.mark.slow
def test_no_stretch_of_code_stands_twice() -> None:
    places: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for path in SOURCES:
        place = path.relative_to(ROOT).as_posix()
        lines = code_lines(path) if not place.startswith(COPIED) else []
        for begin in range(len(lines) - STRETCH + 1):
            stretch = lines[begin : begin + STRETCH]
            places[tuple(line for _, line in stretch)].append(f"{place}:{stretch[0][0]}")
    assert [found for found in places.values() if len(found) > 1] == [], "give them one home"
