"""Trials of a study compare: one with other text, tokenizer, plug-ins or rules is refused and not ranked."""

from pathlib import Path

import pytest
from plugins import block_file, new_process
from spaces import BASE, full_attention, try_all

from hybridkit.recipe.rules_version import CURRENT_RULES, FIRST_RULES
from hybridkit.registry.registry import REGISTRY
from hybridkit.search.definition import read_definition
from hybridkit.search.provenance import RULES, origin_difference
from hybridkit.search.study import Study, create, open_study, resume
from hybridkit.system.errors import UserError


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Two trials on text, of four."""
    monkeypatch.setenv("HYBRIDKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("text").mkdir()
    for part in range(4):
        Path(f"text/{part}.txt").write_text("".join(f"{part} times {n} is {part * n}\n" for n in range(40)))
    Path("base.yaml").write_text(BASE.replace("recall(pairs=2, keys=4, values=4)", "text"))
    Path("space.yaml").write_text("extends: base.yaml\nspace:\n  model.width: [8, 16, 24, 32]\nsampler: grid\n")
    made = create(read_definition(Path("space.yaml")), Path("study"), None)
    try_all(made, full_attention, 2)
    return made


def test_a_study_goes_on_while_its_text_is_the_same(study: Study) -> None:
    Path("text/0.txt").touch()
    again = resume(read_definition(Path("space.yaml")), Path("study"))
    assert len(try_all(again, full_attention)) == 4 and not again.trials_without_origin


def test_changed_text_is_refused_with_both_digests(study: Study) -> None:
    Path("text/9.txt").write_text("one more document\n" * 9)
    (digest,) = (value for name, value in study.trials()[0].origin.items() if name.startswith("the text"))
    with pytest.raises(UserError, match=digest) as raised:
        resume(read_definition(Path("space.yaml")), Path("study"))
    assert "now; put it back" in str(raised.value)
    with pytest.raises(UserError, match=digest):  # while it runs, too
        study.begin()


def test_the_difference_of_two_origins_has_both_values() -> None:
    begun = {"the text": "1", "the plug-in gla.py": "2"}
    assert origin_difference(begun, {"the text": "1"}) is None
    assert origin_difference(begun, {"the plug-in gla.py": "3"}) == "the plug-in gla.py is another one: 2 there, 3 now"


def test_a_study_of_other_rules_is_refused(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridkit.search.provenance.CURRENT_RULES", CURRENT_RULES + 1)
    for act in (lambda: resume(read_definition(Path("space.yaml")), Path("study")), study.begin):
        with pytest.raises(UserError, match=f"rules version.*: {CURRENT_RULES} there, {CURRENT_RULES + 1} now"):
            act()
    assert len(study.trials()) == 2


@pytest.mark.parametrize("line", ["", f"rules: {CURRENT_RULES}\n"], ids=["first", "current"])
def test_the_rules_of_an_older_study_are_those_of_its_runs(study: Study, line: str) -> None:
    """It recorded no rules for its trials; a recipe of a run without a line `rules` is of the first version."""
    journal = study.folder / "journal.log"
    journal.write_text(journal.read_text().replace(f',"{RULES}":"{CURRENT_RULES}"', ""))
    assert RULES not in open_study(study.folder).trials()[0].origin
    run = study.run(study.trials()[0], 0)
    run.path.mkdir(parents=True)
    run.recipe_file.write_text(Path("base.yaml").read_text() + line)
    if line:
        assert len(try_all(resume(read_definition(Path("space.yaml")), Path("study")), full_attention)) == 4
    else:
        with pytest.raises(UserError, match=f"rules version.*: {FIRST_RULES} there, {CURRENT_RULES} now"):
            resume(read_definition(Path("space.yaml")), Path("study"))


def test_a_base_of_other_rules_is_refused_before_anything_is_trained(study: Study) -> None:
    Path("old.yaml").write_text(Path("base.yaml").read_text() + f"rules: {FIRST_RULES}\n")
    Path("space.yaml").write_text(Path("space.yaml").read_text().replace("base.yaml", "old.yaml"))
    with pytest.raises(UserError, match=r"space.yaml:1.*old.yaml has rules 1; training follows rules"):
        read_definition(Path("space.yaml"))


def test_a_changed_plug_in_is_refused(
    study: Study, no_plugins: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "one/gla.py").write_text(block_file("Gla"))
    (tmp_path / "two/gla.py").write_text(block_file("Gla") + "# other\n")
    Path("space.yaml").write_text("extends: base.yaml\nspace:\n  model.width: [8, 16]\nsampler: grid\n")
    Path("base.yaml").write_text(BASE.replace("mlstm", "gla"))
    REGISTRY.add(tmp_path / "one/gla.py")
    with_plugin = create(read_definition(Path("space.yaml")), Path("other"), None)
    try_all(with_plugin, full_attention, 1)
    assert "the plug-in gla.py" in with_plugin.trials()[0].origin
    new_process(monkeypatch)
    REGISTRY.add(tmp_path / "two/gla.py")
    with pytest.raises(UserError, match=r"the plug-in gla\.py is another one"):
        resume(read_definition(Path("space.yaml")), Path("other"))
