"""A run keeps the code that it was trained with, and executes it only for a user who trusts it."""

import json
import os
import pickle
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from plugins import new_process

import hybridkit
from hybridkit.cli.options import _add_plugins
from hybridkit.registry import registry, trust
from hybridkit.registry.plugin_package import loaded_hash, sha256
from hybridkit.registry.registry import REGISTRY, Registry
from hybridkit.runs.run import Run, load_recipe
from hybridkit.system.errors import UserError
from hybridkit.training.reporter import Silent
from hybridkit.training.trainer import run_training

pytestmark = pytest.mark.usefixtures("no_plugins")
GLA = """\
from ._helper import SCALE
from torch import nn
from hybridkit.block import Block, Layer

class _Scaled(Layer):
    def __init__(self, width):
        super().__init__()
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x, state=None, *, window=None, document_starts=None):
        return self.out(x) * SCALE, ()

class Gla(Block):
    def build(self, dims): return _Scaled(dims.width)
    def flops(self, dims, tokens, window=None, count="exact"): return 2 * dims.width**2 * tokens
"""
RECIPE = """\
pattern: gla
model: {width: 8, heads: 2, ffn: null}
data: {source: recall(pairs=2), sequence: 16}
train: {steps: 2, batch_tokens: 32, precision: fp32, device: cpu, checkpoint_every: 1, validate_every: 9}
"""


def write_plugin(folder: Path, scale: str = "1.0") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "_helper.py").write_text(f"SCALE = {scale}\n")
    (folder / "gla.py").write_text(GLA)
    return folder / "gla.py"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run with a plug-in that the user has named, in a process of its own."""
    _add_plugins([write_plugin(tmp_path / "mine")])
    (tmp_path / "r.yaml").write_text(RECIPE)
    run_training(load_recipe(tmp_path / "r.yaml"), tmp_path / "run", resume=False, reporter=Silent())
    new_process(monkeypatch)
    return Run(tmp_path / "run")


def touching(mark: Path) -> str:
    """Code that leaves a mark."""
    return f"__import__('pathlib').Path({str(mark)!r}).touch()\n"


def strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user looks at the run."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another"))


def resumed(run: Run, *overrides: str) -> None:
    recipe = load_recipe(run.path.parent / "r.yaml", overrides, run.path)
    run_training(recipe, run.path, resume=True, reporter=Silent())


def test_copies_and_hashes_are_of_what_was_executed(run: Run) -> None:
    files = {path.name: path.read_bytes() for path in (run.path / "plugins").iterdir()}
    mine = {path.name: path.read_bytes() for path in (run.path.parent / "mine").iterdir() if path.suffix == ".py"}
    record = run.record()
    assert files == mine and record and record.code == {name: sha256(raw) for name, raw in mine.items()}
    assert record.tokenizer == "bytes"


def test_the_run_finds_its_own_code_wherever_it_lies(run: Run, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "mine")
    whole = hybridkit.load(run.path).state_dict()
    shutil.move(run.path, tmp_path / "elsewhere")
    again = hybridkit.load(tmp_path / "elsewhere").state_dict()
    assert all(torch.equal(whole[name], tensor) for name, tensor in again.items())


def test_a_stranger_s_code_is_not_executed_until_it_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    strangers(tmp_path, monkeypatch)
    mark = tmp_path / "executed"
    for place in ("plugins/gla.py", "plugins/_helper.py"):
        (run.path / place).write_text(touching(mark) + (run.path / place).read_text())
    with pytest.raises(UserError, match="is not what the run was trained with"):
        hybridkit.load(run.path)
    rewritten = {path.name: sha256(path.read_bytes()) for path in (run.path / "plugins").iterdir()}
    reseal(run, rewritten)  # as whoever made the folder can
    with pytest.raises(UserError, match="not trusted") as raised:
        hybridkit.load(run.path)
    said = str(raised.value)
    assert all(digest in said for digest in rewritten.values()) and not mark.exists()
    (named,) = re.findall(r"--plugin (\S+)$", said)
    _add_plugins([Path(named)])
    hybridkit.load(run.path)
    assert mark.exists() and capsys.readouterr().err.count("is trusted from now on") == 2
    new_process(monkeypatch)
    hybridkit.load(run.path)  # and from now on it needs no name
    assert not capsys.readouterr().err


def reseal(run: Run, code: dict[str, str]) -> None:
    from hybridkit.runs.manifest import read_manifest, sealed

    for checkpoint in run.checkpoints():
        manifest = read_manifest(checkpoint.folder).model_copy(update={"code": code})
        (checkpoint.folder / "manifest.json").write_bytes(sealed(manifest))


def test_a_file_that_the_record_does_not_name_is_never_executed(run: Run, tmp_path: Path) -> None:
    """Trusted code that imports a neighbour gets the recorded one, or none."""
    mark = tmp_path / "executed"
    (run.path / "plugins/_helper").mkdir()
    (run.path / "plugins/_helper/__init__.py").write_text("SCALE = 1\n" + touching(mark))
    with pytest.raises(UserError, match="not in the record"):
        hybridkit.load(run.path)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["gla.py", "_helper.py"])
def test_changed_code_is_refused_with_both_hashes(
    run: Run, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine" / name
    was = sha256(file.read_bytes())
    file.write_text(file.read_text() + "# other\n")
    _add_plugins([tmp_path / "mine/gla.py"])
    for use in (lambda: hybridkit.load(run.path), lambda: resumed(run, "train.steps=3"), lambda: run.recipe):
        with pytest.raises(UserError) as raised:
            use()
        assert was in str(raised.value) and sha256(file.read_bytes()) in str(raised.value)
    new_process(monkeypatch)
    resumed(run, "train.steps=3")  # by its own copies
    assert next(checkpoint.step for checkpoint in run.checkpoints()) == 3


def test_the_same_code_from_another_folder_is_the_same(run: Run, tmp_path: Path) -> None:
    _add_plugins([write_plugin(tmp_path / "copied")])
    hybridkit.load(run.path)
    resumed(run, "train.steps=3")


def test_two_runs_with_two_versions_of_one_name_are_read_in_one_process(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _add_plugins([write_plugin(tmp_path / "second", scale="2.0")])
    run_training(load_recipe(tmp_path / "r.yaml"), tmp_path / "other", resume=False, reporter=Silent())
    new_process(monkeypatch)
    for path, scale in ((run.path, 1.0), (tmp_path / "other", 2.0)):
        layer = hybridkit.load(path).layers[0].layer
        x = torch.ones(1, 1, 8)
        assert torch.equal(layer(x)[0], layer.out(x) * scale)


def test_source_is_read_anew_though_size_and_time_are_those_of_before(tmp_path: Path) -> None:
    """Where Python would take the .pyc of the file that stood there before."""
    path = write_plugin(tmp_path / "p", scale="1.0")
    helper = path.with_name("_helper.py")
    stamp = helper.stat().st_mtime_ns
    assert Registry((path,)).block("gla").__module__.endswith(".gla")
    helper.write_text("SCALE = 7.0\n")
    os.utime(helper, ns=(stamp, stamp))
    other = path.parent.rename(tmp_path / "q")
    module = Registry((other / "gla.py",)).block("gla").__module__
    assert sys.modules[module].SCALE == 7.0  # type: ignore[attr-defined]
    assert loaded_hash(other / "_helper.py") == sha256(b"SCALE = 7.0\n")


@pytest.mark.parametrize("broken", ["nowhere", "read-only", "relative"])
def test_without_a_configuration_trust_lasts_for_the_process(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_CONFIG_HOME")
    if broken == "nowhere":
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    elif broken == "read-only":
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))  # no folder can be made in a file
    else:
        monkeypatch.setenv("XDG_CONFIG_HOME", "here")
        monkeypatch.setenv("HOME", "")
    trust.trust("a" * 64, Path("gla.py"))
    assert trust.trusted("a" * 64) and "in this process only" in capsys.readouterr().err
    assert not list(tmp_path.rglob("trusted.json"))
    monkeypatch.setattr(trust, "_process", set())
    assert not trust.trusted("a" * 64)


def test_a_damaged_record_of_trust_is_one_message(tmp_path: Path) -> None:
    trust.trust("b" * 64, Path("x.py"))
    file = tmp_path / "config/hybridkit/trusted.json"
    assert list(json.loads(file.read_text())["sha256"]) == ["b" * 64]
    for text in ("{", "[]", '{"sha256": 3}', '{"sha256": ' * 10**5):
        file.write_text(text)
        with pytest.raises(UserError, match="mend or remove"):
            trust.trusted("c" * 64)


def test_a_run_of_an_older_version_is_read_with_the_plugin_that_is_named(run: Run, tmp_path: Path) -> None:
    from hybridkit.evaluation.target import open_eval_target

    for checkpoint in run.checkpoints():
        manifest = checkpoint.folder / "manifest.json"
        said = json.loads(manifest.read_text())
        for key in ("code", "tokenizer", "sha256"):
            del said[key]
        manifest.write_text(json.dumps({**said, "sha256": sha256(json.dumps(said, sort_keys=True).encode())}))
    shutil.rmtree(run.path / "plugins")
    with pytest.raises(UserError, match="unknown block `gla`"):
        hybridkit.load(run.path)
    _add_plugins([tmp_path / "mine/gla.py"])
    hybridkit.load(run.path)
    assert open_eval_target(run.path).lacking == ("tokenizer", "plug-ins")


def test_a_registry_of_a_run_crosses_processes(run: Run) -> None:
    loaded = run.recipe
    again = pickle.loads(pickle.dumps(loaded))
    assert again.registry is not registry.REGISTRY and again.registry.plugins == loaded.registry.plugins
    assert pickle.loads(pickle.dumps(REGISTRY)) is REGISTRY


@pytest.mark.slow
def test_plug_ins_of_two_folders_keep_their_neighbours_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = write_plugin(tmp_path / "a", scale="1.0"), write_plugin(tmp_path / "b", scale="2.0")
    second = second.rename(second.with_name("other.py"))
    second.write_text(second.read_text().replace("Gla", "Other"))
    _add_plugins([second, first])
    (tmp_path / "r.yaml").write_text(RECIPE.replace("gla", "[other, gla]"))
    run_training(load_recipe(tmp_path / "r.yaml"), tmp_path / "run", resume=False, reporter=Silent())
    names = {str(path.relative_to(tmp_path / "run/plugins")) for path in (tmp_path / "run/plugins").rglob("*.py")}
    assert names == {"_helper.py", "gla.py", "2/_helper.py", "2/other.py"}
    x = torch.ones(1, 1, 8)
    for given in ([], [second], [first, second]):  # from the copies alone, or beside what is named
        new_process(monkeypatch)
        _add_plugins(given)
        other, gla = (layer.layer for layer in hybridkit.load(tmp_path / "run").layers)
        assert torch.equal(other(x)[0], other.out(x) * 2) and torch.equal(gla(x)[0], gla.out(x))
        run = Run(tmp_path / "run")
        steps = next(run.checkpoints()).step + 1
        resumed(run, f"train.steps={steps}")
        assert next(run.checkpoints()).step == steps
