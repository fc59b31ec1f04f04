"""What the documents show works as shown."""

import re
import runpy
import sys
from pathlib import Path

import pytest
from fences import fences
from project import ROOT


@pytest.mark.slow
def test_the_block_that_the_guide_writes_keeps_the_laws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block, laws = fences("docs/blocks.md", "python")
    (tmp_path / "decay.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "decay", raising=False)
    (tmp_path / "laws.py").write_text("from decay import Decay\n" + laws)
    runpy.run_path(str(tmp_path / "laws.py"))


def test_links_between_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name} links to {link}"
