"""Names to classes: the folder, plugin files and installed packages; clashes and broken files are named."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT

from hybridkit.block import Block, Dims, Window
from hybridkit.language.parser import parse_pattern
from hybridkit.language.resolve import resolve
from hybridkit.registry.kinds import BLOCK, WINDOW
from hybridkit.registry.registry import REGISTRY, Registry
from hybridkit.system.errors import UserError

BLOCK_FILE = '''
from ._names import DOC
from hybridkit.block import Block, Dims, Layer, Window
from torch import nn

class _Pass(Layer):
    def forward(self, x, state=None, *, window=None, document_starts=None):
        return x, ()

class Echo(Block):
    """Gives back what it gets.

    More is not for the list."""
    gain: float = 1.0
    def build(self, dims): return _Pass()
    def flops(self, dims, tokens, window=None, count="exact"): return 0
'''
WINDOW_FILE = """
from hybridkit.block import Window
class Twice(Window):
    small: int
    def __call__(self, step, index): return self.small
    @property
    def largest(self): return 2 * self.small
    def probabilities(self): return {self.small: 1.0}
"""


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    (tmp_path / "_names.py").write_text("DOC = 'a helper beside the plugin'")
    (tmp_path / "echo.py").write_text(BLOCK_FILE)
    (tmp_path / "twice.py").write_text(WINDOW_FILE)
    return tmp_path


def refused(*paths: Path) -> str:
    with pytest.raises(UserError) as raised:
        Registry(paths).names(BLOCK)
    return str(raised.value)


def test_every_file_of_the_folder_has_a_name_and_a_class_named_like_it() -> None:
    folder = ROOT / "blocks"
    for kind, files in ((BLOCK, folder), (WINDOW, folder / "windows")):
        names = [file.stem for file in sorted(files.glob("*.py")) if not file.stem.startswith("_")]
        assert REGISTRY.names(kind) == names
        load = REGISTRY.block if kind == BLOCK else REGISTRY.window
        assert [load(name).name() for name in names] == names


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown block `mlsm`; did you mean `mlstm`"):
        REGISTRY.block("mlsm")
    with pytest.raises(UserError, match=r"unknown window `zzz`; known are .*stoch"):
        REGISTRY.window("zzz")


def test_a_plugin_is_what_its_one_public_class_is(plugins: Path) -> None:
    registry = Registry((plugins / "echo.py", plugins / "twice.py", plugins / ".." / plugins.name / "echo.py"))
    assert issubclass(registry.block("echo"), Block) and issubclass(registry.window("twice"), Window)
    assert "echo" in registry.names(BLOCK) and "twice" in registry.names(WINDOW)
    assert "echo" not in REGISTRY.names(BLOCK)
    entry = resolve(parse_pattern("echo(.5)")[0], registry, "echo(.5)")
    assert str(entry.block) == "echo(gain=.5)"
    layer = entry.block.build(Dims(8, 2, 16))
    for again in (pickle.loads(pickle.dumps(entry)), copy.deepcopy(entry)):
        assert again == entry
    assert type(pickle.loads(pickle.dumps(layer))) is type(layer)


def test_plugins_of_one_name_in_two_folders_live_side_by_side(plugins: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "echo.py").write_text(BLOCK_FILE.replace("from ._names import DOC", "").replace("1.0", "2.0"))
    first, second = (Registry((folder / "echo.py",)).block("echo") for folder in (plugins, other))
    assert (first.model_fields["gain"].default, second.model_fields["gain"].default) == (1.0, 2.0)


def test_adding_a_plugin_is_seen_at_once(plugins: Path) -> None:
    registry = Registry()
    assert "echo" not in registry.names(BLOCK)
    registry.add(plugins / "echo.py")
    assert "echo" in registry.names(BLOCK)


def test_a_clash_names_both_owners(plugins: Path) -> None:
    (plugins / "swa.py").write_text(BLOCK_FILE)
    message = refused(plugins / "swa.py")
    assert str(plugins / "swa.py") in message and str(Path("blocks") / "swa.py") in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "holds none"),
        (BLOCK_FILE + "\nclass Other(Echo): pass", "holds 2: Echo, Other"),
        ("from hybridkit_blocks.windows.stoch import Stoch", "holds none"),
        ("x = 1\n\ny = 1 / 0", "line 3: ZeroDivisionError: division by zero"),
        ("def f():\n    raise KeyError('a')\n\nf()", "line 2: KeyError"),
        ("import sys\nsys.exit(3)", "line 2: SystemExit: 3"),
        ("import no_such_module", "line 1: ModuleNotFoundError"),
        ("x = (\n", "line 1: SyntaxError"),
        ("x = 1\0", "SyntaxError"),
    ],
)
def test_a_broken_plugin_is_named_with_its_fault(plugins: Path, text: str, said: str) -> None:
    broken = plugins / "broken.py"
    broken.write_text(text)
    message = refused(broken)
    assert str(broken) in message and said in message


def test_what_is_no_plugin_file_is_refused_at_once(plugins: Path) -> None:
    for name, said in (
        ("my-block.py", "is named by its file"),
        ("_names.py", "is named by its file"),
        ("a.txt", "is named by its file"),
    ):
        (plugins / name).write_text(BLOCK_FILE)
        assert said in refused(plugins / name)
    assert "no such plug-in file" in refused(plugins / "missing.py")
    assert "not a folder" in refused(plugins)


def package(root: Path, name: str, points: str) -> None:
    """An installed distribution, as pip leaves it."""
    info = root / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)


def test_installed_packages_bring_blocks_and_windows(
    plugins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = plugins / "echo_package"
    module.mkdir()
    for file in ("_names.py", "echo.py", "twice.py"):
        (plugins / file).rename(module / file)
    points = "[hybridkit.blocks]\necho = echo_package.echo\n[hybridkit.windows]\ntwice = echo_package.twice:Twice\n"
    package(plugins, "echoes", points)
    monkeypatch.syspath_prepend(plugins)
    registry = Registry()
    assert "echo" in registry.names(BLOCK) and "echo_package.echo" not in sys.modules
    assert registry.block("echo").name() == "echo" and registry.window("twice").read([(None, 3)]).largest == 6
    assert [row.owner for row in registry.listing() if row.name == "echo"] == ["package echoes"]

    package(tmp_path / "second", "sounds", points)
    monkeypatch.syspath_prepend(tmp_path / "second")
    with pytest.raises(UserError, match="two blocks are named `echo`") as raised:
        Registry().names(BLOCK)
    assert "package echoes" in str(raised.value) and "package sounds" in str(raised.value)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ("[hybridkit.blocks]\nloud = echo_package.echo\n", "package echoes: entry point `loud` should be named like"),
        ("[hybridkit.blocks]\ntwice = twice\n", "package echoes: `twice` should be a block, and Twice is a window"),
        ("[hybridkit.blocks]\nabsent = absent\n", "package echoes: ModuleNotFoundError"),
    ],
)
def test_a_wrong_entry_point_names_its_package(
    plugins: Path, monkeypatch: pytest.MonkeyPatch, points: str, said: str
) -> None:
    package(plugins, "echoes", points)
    monkeypatch.syspath_prepend(plugins)
    monkeypatch.delitem(sys.modules, "twice", raising=False)
    with pytest.raises(UserError, match=said):
        Registry().listing()


def test_the_listing_shows_arguments_as_patterns_write_them(plugins: Path) -> None:
    rows = {row.name: row for row in Registry((plugins / "echo.py",)).listing()}
    assert rows["stoch"].arguments == ("short", "long", "p=.5", "until=1", "scope=batch")
    assert rows["fixed"].arguments == ("window",)
    assert not any(argument.startswith("window") for argument in rows["swa"].arguments)
    echo = rows["echo"]
    assert (echo.kind, echo.arguments, echo.doc) == ("block", ("gain=1",), "Gives back what it gets.")
    assert echo.owner == str(plugins / "echo.py")


def test_names_wait_for_no_torch() -> None:
    code = """
import sys
from hybridkit.registry.kinds import BLOCK, WINDOW
from hybridkit.registry.registry import REGISTRY
print(*REGISTRY.names(BLOCK), *REGISTRY.names(WINDOW))
assert "torch" not in sys.modules and not any(name.startswith("hybridkit_blocks.") for name in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"swa", "mlstm", "stoch"} <= set(done.stdout.split())
