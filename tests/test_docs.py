"""What the documents show works as shown."""

import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fences import fences
from project import ROOT
from typer.main import get_command

import hybridkit
from hybridkit.cli import verbs

PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
VERBS = {name: {word for parameter in verb.params for word in [*parameter.opts, *parameter.secondary_opts]}
         for name, verb in get_command(verbs()).commands.items()}  # type: ignore[attr-defined]  # fmt: skip
ALONE = {option for parameter in get_command(verbs()).params for option in parameter.opts}  # that stand without a verb
OPTION = re.compile(r"--[a-z][a-z_-]*")
FILE = re.compile(r"\b(?:blocks|docs|hybridkit|recipes|tests|tools)/[\w/.-]+\.(?:md|py|yaml)\b")


@pytest.mark.slow
def test_the_block_that_the_guide_writes_keeps_the_laws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block, laws = fences("docs/blocks.md", "python")
    (tmp_path / "decay.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "decay", raising=False)
    (tmp_path / "laws.py").write_text("from decay import Decay\n" + laws)
    runpy.run_path(str(tmp_path / "laws.py"))


@pytest.mark.slow
@pytest.mark.parametrize("page", ["data", "flops", "mapping", "recipes", "python", "generate"])
def test_python_that_a_page_shows_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is, but for the training of a smaller model, which a generating page has trained before."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text("A line of a book, and another one.\n" * 4000, encoding="utf-8")
    small = {"train.steps": 2, "train.batch_tokens": 1024, "model.width": 16, "data.source": "book.txt"}
    if page == "generate":
        hybridkit.train("quickstart", run="runs/x", overrides=small, quiet=True)
    code, *others = fences(f"docs/{page}.md", "python")
    assert not others
    (tmp_path / "page.py").write_text(code.replace('{"train.steps": 100}', repr(small)), encoding="utf-8")
    runpy.run_path("page.py")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        assert (page.parent / link).exists(), link


def code(page: Path) -> Iterator[str]:
    """Lines of code blocks, and code in sentences."""
    text = page.read_text("utf-8")
    block = re.compile(r"^```.*?\n(.*?)^```", re.DOTALL | re.MULTILINE)
    for lines in block.findall(text):
        yield from (line.partition(" #")[0].strip() for line in lines.splitlines())
    yield from re.findall(r"`([^`]+)`", block.sub("", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_verbs_and_options_that_a_page_names_exist(page: Path) -> None:
    for words in code(page):
        said = re.search(r"\bhybridkit ([a-z]+)\b(.*)", words, re.DOTALL)
        if said and not words.startswith(("import ", "from ")):
            assert said[1] in VERBS, words
            known = VERBS[said[1]]
        elif words.startswith("--") and page.name != "results.md":  # where measuring programs have options, too
            known = ALONE.union(*VERBS.values())
        else:
            continue
        assert set(OPTION.findall(words)) <= known, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_of_the_project_that_a_page_names_exist(page: Path) -> None:
    for file in re.findall(
        r"\b(?:blocks|docs|hybridkit|recipes|tests|tools)/[\w/.-]+\.(?:md|py|yaml)\b", page.read_text("utf-8")
    ):
        assert "NAME" in file or (ROOT / file).exists(), file
