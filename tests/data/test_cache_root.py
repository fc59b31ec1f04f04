"""Where texts are kept, for users with and without a home."""

import os
import pwd
from pathlib import Path

import pytest

from hybridkit.data.cache import cache_root, find_entry, valid_manifest
from hybridkit.system.errors import UserError


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without HOME, whom the system does not know."""
    for name in ("HOME", "HYBRIDKIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)


def test_a_named_folder_needs_no_home(nobody: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_root(tmp_path) == tmp_path / "corpora"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg/hybridkit/corpora"
    monkeypatch.setenv("HYBRIDKIT_CACHE", str(tmp_path))
    assert cache_root() == tmp_path / "corpora"


@pytest.mark.parametrize("named", [None, "~/cache"])
def test_no_home_and_no_folder_is_a_message(nobody: None, named: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if named:
        monkeypatch.setenv("HYBRIDKIT_CACHE", named)
    with pytest.raises(UserError, match="name a folder in HYBRIDKIT_CACHE"):
        cache_root()


def test_a_pipe_in_a_cache_does_not_hang(tmp_path: Path) -> None:
    for name in ("stamp.seen", "manifest.json"):
        os.mkfifo(tmp_path / name)
    assert find_entry(tmp_path, "stamp") is None and valid_manifest(tmp_path) is None
