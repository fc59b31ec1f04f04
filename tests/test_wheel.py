"""The wheel that a clean tree gives works elsewhere: it holds what it needs, and trains a step."""

import shutil
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest
from project import ROOT

import hybridkit
from hybridkit.recipe.files import read_recipe

pytest.importorskip("setuptools", "77")
TINY = ("data.source=text.txt", "data.validation=.2", "data.sequence=64", "train.batch_tokens=128", "train.steps=1")


def call(*words: str | Path, cwd: Path = ROOT) -> str:
    done = subprocess.run([*map(str, words)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the files that git knows, and from nothing else that lies in the working tree."""
    if not (ROOT / ".git").exists():
        pytest.skip("only a git checkout says which files are the project's")
    folder = tmp_path_factory.mktemp("wheel")
    for name in call("git", "ls-files", "-z").split("\0"):
        if name and (ROOT / name).is_file():
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "tree" / name)
    build = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    call(sys.executable, *build, "--wheel-dir", folder, folder / "tree", cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_it_holds_types_grammar_and_recipes_and_nothing_of_the_tests(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    assert wheel.name.startswith(f"hybridkit-{hybridkit.__version__}-")
    parts = {"hybridkit", "hybridkit_blocks", "hybridkit_recipes", f"hybridkit-{hybridkit.__version__}.dist-info"}
    assert {name.split("/")[0] for name in names} == parts
    typed = {f"{package}/py.typed" for package in ("hybridkit", "hybridkit_blocks")}
    assert {*typed, "hybridkit_blocks/swa.py", "hybridkit_recipes/quickstart.yaml"} <= set(names)
    assert any(name.endswith(".lark") for name in names)


@pytest.mark.slow
def test_it_installs_elsewhere_and_trains_a_step(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own that sees the libraries of this one, but not this project."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env/bin/python"
    install = ("-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", "--no-compile")
    call(sys.executable, *install, wheel)
    libraries = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    packages = next((tmp_path / "env").glob("lib/python*/site-packages"))
    (packages / "libraries.pth").write_text("\n".join(libraries))  # their own .pth files are not read
    (tmp_path / "text.txt").write_text("def square(x):\n    return x * x\n" * 40)
    at = Path(call(python, "-c", "import hybridkit; print(hybridkit.__file__)", cwd=tmp_path).strip())
    assert at.is_relative_to(tmp_path)
    command = tmp_path / "env/bin/hybridkit"
    call(command, "train", "quickstart", *TINY, "train.precision=fp32", "train.device=cpu", cwd=tmp_path)
    assert (tmp_path / "runs/quickstart/checkpoints/step-1/model.safetensors").is_file()
    read = "from hybridkit.recipe.files import read_recipe; print(read_recipe('swax-stochastic-1.4b').recipe.pattern)"
    assert call(python, "-c", read, cwd=tmp_path).strip() == read_recipe("swax-stochastic-1.4b").recipe.pattern
