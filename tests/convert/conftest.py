"""A teacher that a second trains, and the recipe of its student."""

import random
from pathlib import Path

import pytest
from converted import STAGES, Change, Convert

import hybridkit as hk
from hybridkit.convert.conversion import Conversion, run_conversion
from hybridkit.recipe.files import read_mapping
from hybridkit.training.reporter import Silent


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.MonkeyPatch().setenv("HYBRIDKIT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words, file = random.Random(0), tmp_path_factory.mktemp("text") / "a.txt"
    file.write_text(" ".join(words.choice(["window", "state", "short"]) for _ in range(300)), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def student(text: Path) -> Change:
    """The student's recipe with some of its keys changed."""

    def recipe(**changes: object) -> dict[str, object]:
        return {
            "pattern": "[swa:stoch(4,8), mlstm]",
            "model": {"width": 16, "heads": 2},
            "data": {"source": str(text), "sequence": 16, "validation": 0.2},
            "train": {
                "steps": 6, "batch_tokens": 64, "lr": 1e-2, "checkpoint_every": 2, "validate_every": 4,
                "precision": "fp32", "device": "cpu",
            },
            "convert": {"stages": STAGES},
        } | changes  # fmt: skip

    return recipe


@pytest.fixture(scope="session")
def teacher(student: Change, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("teacher") / "run"
    hk.train(student(pattern="sa*2", convert=None), run, quiet=True)
    return run


@pytest.fixture(scope="session")
def go(teacher: Path, student: Change) -> Convert:
    """`go(folder, resume=True, convert=...)` converts without measuring."""

    def run(folder: Path, resume: bool = False, source: Path = teacher, **changes: object) -> Conversion:
        return run_conversion(str(source), read_mapping(student(**changes), {}), folder, resume=resume, reporter=Silent)

    return run


@pytest.fixture(scope="session")
def whole(go: Convert, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conversion; not to be written to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    go(folder)
    return folder
