"""Repositories of the Hugging Face Hub: a checkpoint down, an export up. Needs huggingface_hub, and the network."""

from __future__ import annotations

import re
from pathlib import Path

from hybridkit.system.errors import MissingExtra, UserError
from hybridkit.system.folders import explain
from hybridkit.system.network import NO_ADDRESS, hub_if_reachable

_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_FILES = ["*.json", "*.safetensors"]  # no code, and no pickles


def local_folder(source: str) -> Path:
    """The folder of a source: itself, or the copy of a repository `NAME/NAME`, downloaded where it is not here yet.

    Raises UserError where there is no such folder, or the repository cannot be reached.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists() or not _NAME.fullmatch(source) or source.startswith("."):
        raise UserError(explain(folder, "a folder with a checkpoint"))
    try:
        from huggingface_hub import constants, snapshot_download
    except ImportError:
        raise MissingExtra("huggingface_hub", "hf") from None
    reachable = True
    try:
        with hub_if_reachable(constants) as reachable:
            return Path(snapshot_download(source, allow_patterns=_FILES))
    except Exception as error:  # of its own, of httpx, and of the system
        what = "no such folder, and the repository cannot be downloaded"
        raise UserError(f"{source}: {_said(what, error) if reachable else f'{what}: {NO_ADDRESS}'}") from error


def push(folder: Path, repository: str, public: bool) -> str:
    """Upload a folder to a repository, and return its address. A new repository is private unless `public`.

    Raises UserError where that fails; the folder stays.
    """
    if not _NAME.fullmatch(repository):
        raise UserError(f"--push {repository}: a repository is named NAME/NAME; the export is in {folder}")
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise MissingExtra("huggingface_hub", "hf") from None
    try:
        api = HfApi()
        address = api.create_repo(repository, private=not public, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder)
        return str(address)
    except Exception as error:
        raise UserError(f"--push {repository}: {_said(f'{folder} is written, but not uploaded', error)}") from error


def _said(what: str, error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{what}: {lines[0][:200] if lines else type(error).__name__}"
