"""Who imports whom, and how large things may grow (docs/architecture.md)."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for folder in ("hybridkit", "blocks", "tools", "tests") for path in (ROOT / folder).rglob("*.py"))

# A module may import those of its own rank and below. Packages stand for everything in them.
RANKS = [
    {"errors", "source", "block", "loss", "norm", "rules", "stopwatch", "strict_json", "folders", "terminal", "wrong"},
    {"trust", "plugin_package", "syntax", "plugin", "testing"},
    {"pattern", "canonical"},
    {"resolve", "registry"},
    {"compile"},
    {"yaml_events", "yaml_reader", "schema", "recipe", "data", "machine", "manifest", "metrics", "weights", "run"}
    | {"copies", "model", "decode", "sampling", "api"},
    {"train", "evaluate", "search", "generate", "states", "cost", "export", "doctor"},
    {"report"},
    {"cli"},
]
UPPER = 6  # the floor of a module that is not named above
HOMES = {
    "lark": {"pattern", "syntax"},
    "networkx": {"compile"},
    "deepspeed": {"train"},
    "optuna": {"search"},
    "fvcore": {"verify"},
    "rich": {"report", "cli"},
    "matplotlib": {"report"},
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(module: str) -> str:
    return module.split(".")[1]


def rank(name: str) -> int:
    places = [place for place, names in enumerate(RANKS) if name in names]
    return places[0] if places else UPPER


@pytest.mark.parametrize("path", sorted((ROOT / "hybridkit").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    own = part(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for module in imports(path):
        assert not module.startswith("hybridkit_blocks."), f"the engine imports a block by name: {module}"
        if module.startswith("hybridkit.") and own != "__init__":
            assert rank(part(module)) <= rank(own), f"{own} imports {module}, which stands above it"


@pytest.mark.parametrize("path", sorted((ROOT / "blocks").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_blocks_know_only_the_vocabulary(path: Path) -> None:
    for module in imports(path):
        if module.startswith("hybridkit_blocks"):
            assert part(module).startswith("_"), f"a block imports another block: {module}"
        elif module.startswith("hybridkit"):
            assert part(module) == "block", f"a block imports {module}"


def test_a_library_has_one_home() -> None:
    for path in (ROOT / "hybridkit").rglob("*.py"):
        for module in imports(path):
            homes = HOMES.get(module.split(".")[0])
            assert not homes or homes & set(path.relative_to(ROOT).with_suffix("").parts), f"{path} imports {module}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None and node.end_lineno - node.lineno < 50, f"{node.name} is too long"


def test_the_page_on_architecture_names_every_module() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    modules = {path.stem for path in (ROOT / "hybridkit").glob("[!_]*.py")}
    packages = {f"{path.parent.name}/" for path in (ROOT / "hybridkit").glob("*/__init__.py")}
    assert {name for name in modules | packages if f"`{name}`" not in page} == set()
