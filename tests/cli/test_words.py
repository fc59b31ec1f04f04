"""Hostile names through every verb that takes or prints one: no traceback, no order to a terminal, nothing lost."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from names import HOSTILE, raw_controls

from hybridkit.cli import main
from hybridkit.recipe.files import run_name, sort_words
from hybridkit.runs.run import load_recipe
from hybridkit.training.reporter import Silent
from hybridkit.training.trainer import run_training

TINY = """
pattern: [swa:stoch(4,8), mlstm]
model: {width: 16, heads: 2}
data: {source: text.txt, sequence: 16}
train: {steps: 2, batch_tokens: 64, warmup: 0, precision: fp32, device: cpu}
"""
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a text, a recipe and a run; the working folder of this module."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "text.txt").write_text("def square(x):\n    return x * x\n" * 40, "utf-8")
    (folder / "tiny.yaml").write_text(TINY, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HYBRIDKIT_CACHE", str(folder / "cache"))
        run_training(load_recipe("tiny.yaml"), Path("tiny"), resume=False, reporter=Silent())
        yield folder


@pytest.fixture
def call(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line in this process: exit code, standard output, standard error; nothing raw in either."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hybridkit", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert raw_controls(out + err) == "" and "Traceback" not in err
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture
def runs(home: Path) -> Iterator[list[str]]:
    """A copy of the run under every name."""
    folder = home / "runs"
    for name in HOSTILE:
        shutil.copytree(home / "tiny", folder / name)
    yield [f"runs/{name}" for name in HOSTILE]
    shutil.rmtree(folder)


@pytest.mark.slow
def test_show_prints_a_row_of_its_own_for_every_run(call: Call, runs: list[str]) -> None:
    code, out, _ = call("show", *runs, "--plot", "curves.svg")
    rows = [line.split("     2 ")[0].rstrip() for line in out.splitlines()[1:]]
    assert code == 0 and len(set(rows)) == len(rows) == len(HOSTILE)
    for name in ("a[lr=1e-3]", ":smile:", "a$b^{$", "a\\x1b[31mred", "a\\nhybridkit: all is well", "n" * 200):
        assert f"runs/{name}" in rows
    ElementTree.parse("curves.svg")
    (_, out, _) = call("show", *runs, "--json")
    assert [run["run"] for run in json.loads(out)["runs"]] == runs


@pytest.mark.slow
def test_eval_reports_on_every_run(call: Call, runs: list[str]) -> None:
    asked = [run for run in runs if re.search(r"\x1b.31|[\n<|$_]|&|smile|=1e-3", run)]  # few: each is evaluated
    code, out, err = call("eval", *asked, "--context", "32", "--out", "report")
    assert code == 0 and len(asked) > 8, err
    page, table = (Path("report", name).read_text("utf-8") for name in ("report.html", "report.md"))
    assert raw_controls(page) == raw_controls(table) == ""
    assert "<script>" not in page and "runs/&lt;script&gt;alert(1)&lt;" in page and "runs/&amp;lt;b&amp;gt;" in page
    for rows in (part.splitlines() for part in table.split("\n\n") if part.startswith("|")):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1, "a name adds no column"
    for picture in Path("report").glob("*.svg"):
        ElementTree.parse(picture)
    assert all(f"runs/{name}" in out for name in ("a[lr=1e-3]", ":smile:", "a$b^{$", "_x"))


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_what_is_not_there_is_one_message(name: str, call: Call) -> None:
    for words in (["show", f"none/{name}"], ["export", f"none/{name}", "out"]):
        code, out, err = call(*words)
        assert code == 2 and not out and err.count("\nhybridkit: ") == 0 and err.startswith("hybridkit: ")


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_recipes_of_any_name_are_shown_and_counted(name: str, home: Path, call: Call) -> None:
    path = home / f"{name}.yaml"
    path.write_text(TINY, "utf-8")
    for words in (["show"], ["flops"]):
        code, out, err = call(*words, "--", str(path))
        assert code == 0 and "swa:stoch(4,8)" in out, err
    path.unlink()


@pytest.mark.parametrize("name", [n for n in HOSTILE if n.isprintable()], ids=ascii)
def test_keys_and_values_of_any_name_are_one_message(name: str, home: Path, call: Call) -> None:
    (home / "bad.yaml").write_text(f"pattern: sa\nmodel:\n  {json.dumps(name)}: 1\n", "utf-8")
    assert call("show", "bad.yaml")[0] == 2
    (home / "bad.yaml").write_text(f"pattern: sa\ndata:\n  source: {json.dumps(name)}\n", "utf-8")
    code, _, err = call("train", "bad.yaml", "--run", "none")
    assert code == 2 and err.startswith("hybridkit: ") and not (home / "none").exists()


def test_wrong_options_are_harmless_too(call: Call) -> None:
    for words in (["show", "--a\x1b[31m"], ["tra\x9bin"], ["flops", "--context", "\x1b]0;x\x07"]):
        assert call(*words)[0] == 2


def test_a_recipe_s_dots_are_part_of_its_name() -> None:
    names = {"v1.2": "v1.2", "a/v1.3": "v1.3", "swax-128-1.4b": "swax-128-1.4b", "x.yaml": "x", "a.b.yml": "a.b"}
    names |= {"lr=1e-3.yaml": "lr=1e-3", ".yaml": ".yaml", "x.yaml.yaml": "x.yaml"}
    assert {name: run_name(name) for name in names} == names
    assert run_name("paper/swax-128-1.4b") == "swax-128-1.4b"


def test_a_word_that_exists_is_no_change(home: Path, call: Call) -> None:
    shutil.copy("tiny.yaml", "lr=1e-3.yaml")
    assert sort_words(["lr=1e-3.yaml", "train.lr=1e-3", "x"]) == (["lr=1e-3.yaml", "x"], ["train.lr=1e-3"])
    code, out, _ = call("flops", "lr=1e-3.yaml", "train.lr=1e-3")
    assert code == 0 and "lr=1e-3" in out.split("parameters")[0]


@pytest.mark.parametrize("recipe", ["v1.2", "v1.3"])
def test_a_run_is_named_like_its_recipe(recipe: str, home: Path, call: Call) -> None:
    shutil.copy("tiny.yaml", recipe)
    assert call("train", recipe, "train.steps=1")[0] == 0
    assert (home / "runs" / recipe / "metrics.jsonl").exists()
    shutil.rmtree(home / "runs")


WRONG = {
    "a run as a recipe": (["flops", "tiny"], "a run folder; did you mean tiny/recipe.yaml?"),
    "a recipe as a run": (["generate", "tiny.yaml", "x"], "not a run folder; `hybridkit train tiny.yaml`"),
    "a study as a recipe": (["show", "study"], "a study folder; `hybridkit search report study`"),
    "a study as a run": (["eval", "study"], "a study folder, not a run folder"),
    "an empty folder": (["eval", "nothing"], "an empty folder, not a run folder"),
    "a file as a report": (["eval", "tiny", "--out", "text.txt"], "--out text.txt: a file, not a folder"),
    "a slip in a run's name": (["eval", "tinny"], "did you mean tiny?"),
    "two recipes": (["train", "tiny.yaml", "text.txt"], "one recipe is read"),
    "a recipe and a run": (["show", "tiny.yaml", "tiny"], "run folders"),
    "a space as a recipe": (["flops", "studies/effect"], "a space of recipes, not a recipe; `hybridkit search "),
    "a space of templates": (["train", "studies/schedule-search"], "a space of recipes, not a recipe"),
    "a pattern as a recipe": (["flops", "[sa]*4"], "no such file; a pattern goes with a recipe: quickstart 'pattern="),
    "a recipe as a space": (["search", "tiny.yaml"], "tiny.yaml:2:1: this is a recipe; a space file names it"),
    "no such needles": (["eval", "tiny", "--needles", "foo"], "no such task; known are all, "),
    "a slip in needles": (["eval", "tiny", "--needles", "niah_singel"], "did you mean `niah_single`? Known are"),
    "fewer steps": (
        ["train", "tiny.yaml", "--run", "tiny", "--resume", "train.steps=1"],
        "train.steps: 1 is fewer than",
    ),
    "an unknown key of the ffn": (["show", "tiny.yaml", "model.ffn.foo=1"], "has no argument `foo`; it takes width"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_argument_of_the_wrong_kind_is_named_by_what_it_is(case: str, home: Path, call: Call) -> None:
    (home / "study").mkdir(exist_ok=True)
    (home / "study/study.json").touch()
    (home / "nothing").mkdir(exist_ok=True)
    words, said = WRONG[case]
    code, _, err = call(*words)
    assert code == 2 and said in err and "pydantic" not in err, err
