"""A study's trials compare: those of other text, tokenizer or plug-ins are refused, not ranked beside the others."""

from pathlib import Path

import pytest
from spaces import BASE, full_attention, try_all

from hybridkit.registry.registry import REGISTRY
from hybridkit.search.definition import read_definition
from hybridkit.search.provenance import difference
from hybridkit.search.study import Study, create, resume
from hybridkit.system.errors import UserError

BLOCK = """\
from hybridkit.block import Block, Layer
class _Pass(Layer):
    def forward(self, x, state=None, *, window=None, document_starts=None): return x, ()
class Gla(Block):
    def build(self, dims): return _Pass()
    def flops(self, dims, tokens, window=None, count="exact"): return 0
"""


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
    assert len(try_all(again, full_attention)) == 4 and not again.unverified


def test_changed_text_is_refused_with_both_digests(study: Study) -> None:
    Path("text/9.txt").write_text("one more document\n" * 9)
    (was,) = study.trials()[0].origin.values()
    with pytest.raises(UserError, match=was) as raised:
        resume(read_definition(Path("space.yaml")), Path("study"))
    assert "now; put it back" in str(raised.value)
    with pytest.raises(UserError, match=was):  # while it runs, too
        study.begin()


def test_a_trial_trained_on_other_text_than_it_began_with_fails(study: Study) -> None:
    begun = {"the text": "1", "the plug-in gla.py": "2"}
    assert difference(begun, {"the text": "1"}) is None
    assert difference(begun, {"the plug-in gla.py": "3"}) == "the plug-in gla.py is another one: 2 there, 3 now"


def test_a_changed_plug_in_is_refused(study: Study, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "one/gla.py").write_text(BLOCK)
    (tmp_path / "two/gla.py").write_text(BLOCK + "# other\n")
    Path("space.yaml").write_text("extends: base.yaml\nspace:\n  model.width: [8, 16]\nsampler: grid\n")
    Path("base.yaml").write_text(BASE.replace("mlstm", "gla"))
    before = dict(REGISTRY._plugins)
    try:
        REGISTRY.add(tmp_path / "one/gla.py")
        with_plugin = create(read_definition(Path("space.yaml")), Path("other"), None)
        try_all(with_plugin, full_attention, 1)
        assert "the plug-in gla.py" in with_plugin.trials()[0].origin
        _forget(before)
        REGISTRY.add(tmp_path / "two/gla.py")
        with pytest.raises(UserError, match=r"the plug-in gla\.py is another one"):
            resume(read_definition(Path("space.yaml")), Path("other"))
    finally:
        _forget(before)


def _forget(before: dict) -> None:  # type: ignore[type-arg]
    REGISTRY._plugins = before.copy()
    REGISTRY.__dict__.pop("_known", None)
