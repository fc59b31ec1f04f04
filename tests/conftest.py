"""For all tests: folders of their own instead of the user's, short measurements of the machine, and their order."""

import functools
import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_configure() -> None:
    """Fewer looks for cycles: a tenth of the time of what makes many objects (imports, collection, torch.compile)."""
    gc.set_threshold(20_000, 20, 20)


def pytest_collection_finish() -> None:
    """What is imported and collected by now lives to the end, and is not looked at again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.setenv("HYBRIDKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _no_fsync() -> Iterator[None]:
    """A killed process loses nothing that it wrote, with fsync or without: only a loss of power does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def _verbs_are_called_often() -> Iterator[None]:
    """typer describes a verb anew at every call, which takes longer than many verbs do. A verb that only counts turns
    the collection of garbage off, since its process ends soon."""
    import typer.main

    from hybridkit import cli

    described = functools.cache(cli.verbs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "verbs", lambda names=cli.VERBS: described(tuple(names)))
        patch.setattr(cli, "collect_no_more", lambda: None)
        patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture
def no_plugins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """As for a new user: no plug-in is named or loaded, and none is trusted; afterwards all are forgotten again."""
    from plugins import new_process

    from hybridkit.registry.registry import REGISTRY

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    new_process(monkeypatch)
    yield
    REGISTRY.clear()


@pytest.fixture(autouse=True, scope="session")
def _shortest_ceilings() -> Iterator[None]:
    """Every run measures its ceiling before the first step: here once, by small products, not for a tenth of a second.

    What runs faster than such a ceiling raises it, so that no share exceeds 1. Imported here, since the process that
    only hands tests to others needs no torch.
    """
    from hybridkit.training import ceiling

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hybridkit.training.throughput.FIRST", 0.0)
        patch.setitem(ceiling.LARGEST, "cpu", ceiling.SMALLEST)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several processes, files with slow tests come first, from the last: a long test should not begin at the end,
    when the other processes have nothing left to do, and the longest are in tests/training."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        files = list(dict.fromkeys(item.path for item in items))
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        order = [path for path in reversed(files) if path in slow] + [path for path in files if path not in slow]
        place = {path: number for number, path in enumerate(order)}
        items.sort(key=lambda item: place[item.path])
