"""Blocks are the files of blocks/, and policies those of blocks/windows/: what blocks share in ops/ is neither."""

from project import ROOT

from hybridkit.registry.kinds import BLOCK, WINDOW
from hybridkit.registry.registry import REGISTRY


def test_names_are_the_files_of_their_folders() -> None:
    for kind, folder in ((BLOCK, "blocks"), (WINDOW, "blocks/windows")):
        files = {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__"}
        assert set(REGISTRY.names(kind)) == files
