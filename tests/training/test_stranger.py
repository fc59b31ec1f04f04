"""A stranger's run folder: read or refused, nothing in it executed, nothing outside written."""

import json
import os
import pickle
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forked import COMMAND_LINE, forked
from project import ROOT
from reseal import reseal
from safetensors.torch import load_file, save_file
from told import Go

from hybridkit.cli import verbs
from hybridkit.runs.manifest import Invalid, read_manifest
from hybridkit.runs.run import Run
from hybridkit.system.errors import Failure, UserError

VERBS = {
    "show": ["show", "RUN"],
    "eval": ["eval", "RUN", "--context", "32", "--device", "cpu"],
    "generate": ["generate", "RUN", "window", "--tokens", "3"],
    "export": ["export", "RUN", "OUT"],
}


class Bomb:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self._mark}",)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "executed"


@pytest.fixture
def bomb(mark: Path) -> bytes:
    armed = pickle.dumps(Bomb(mark))
    pickle.loads(armed)
    assert mark.exists(), "the bomb works"
    mark.unlink()
    return armed


@pytest.fixture
def run(whole: Run, tmp_path: Path) -> Run:
    shutil.copytree(whole.path, tmp_path / "run")
    return Run(tmp_path / "run")


def call(verb: str, run: Run) -> None:
    words = {"RUN": str(run.path), "OUT": str(run.path.with_name("out"))}
    verbs()([words.get(word, word) for word in VERBS[verb]], standalone_mode=False)


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_pickles_beside_a_run_are_not_opened(run: Run, verb: str, bomb: bytes, mark: Path) -> None:
    newest = run.newest().checkpoint
    assert newest
    for folder in (run.path, newest.folder, run.checkpoint_folder, run.tensorboard, run.path / "eval"):
        folder.mkdir(exist_ok=True)
        for name in ("model.pt", "pytorch_model.bin", "optimizer.pt", "mp_rank_00_model_states.pt", "latest", "x.pkl"):
            (folder / name).write_bytes(bomb)
    shutil.copytree(newest.folder, run.checkpoint_folder / "global_step12")
    for name in ("sa.py", "swa.py", "plugin.py", "conftest.py", "sitecustomize.py", "hybridkit.py"):
        (run.path / name).write_text(f"open({str(mark)!r}, 'w')")
    call(verb, run)
    assert not mark.exists()


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", ["recipe.yaml", "metrics.jsonl", "tokenizer.json", "CHECKPOINTS"])
def test_pickles_in_place_of_files_are_refused(run: Run, verb: str, name: str, bomb: bytes, mark: Path) -> None:
    """In every checkpoint in turn, with manifests that vouch for them."""
    if name == "CHECKPOINTS":
        for checkpoint in list(run.checkpoints()):
            for file in ("model.safetensors", "optimizer.safetensors", "state.json"):
                (checkpoint.folder / file).write_bytes(bomb)
            reseal(checkpoint.folder)
    else:
        (run.path / name).write_bytes(bomb)
    needed = {"recipe.yaml": {"eval", "generate", "export"}, "tokenizer.json": {"eval", "generate", "export"}}
    if verb in needed.get(name, {"eval", "generate", "export"} if name == "CHECKPOINTS" else ()):
        with pytest.raises(UserError, match=r"safetensors|recipe\.yaml|tokenizer\.json"):
            call(verb, run)
    else:
        call(verb, run)
    assert not mark.exists()


def test_a_resumed_run_refuses_what_a_sealed_manifest_vouches_for(run: Run, go: Go, bomb: bytes, mark: Path) -> None:
    for checkpoint in list(run.checkpoints()):
        (checkpoint.folder / "optimizer.safetensors").write_bytes(bomb)
        reseal(checkpoint.folder)
    with pytest.raises(UserError, match=r"optimizer\.safetensors is no safetensors file"):
        go(run.path, "train.steps=13", resume=True)
    assert not mark.exists()


@pytest.mark.slow
def test_a_zip_bomb_is_not_unpacked(run: Run) -> None:
    newest = run.newest().checkpoint
    assert newest
    path = newest.folder / "model.safetensors"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb, bomb.open("archive/data/0", "w") as inner:
        for _ in range(256):
            inner.write(bytes(1 << 20))
    reseal(newest.folder)
    tracemalloc.start()
    with pytest.raises(UserError, match="no safetensors file"):
        run.weights()
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def _without_embedding(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["embedding.weight"]


def _scalar_embedding(tensors: dict[str, torch.Tensor]) -> None:
    tensors["embedding.weight"] = torch.tensor(1.0)


def _integers(tensors: dict[str, torch.Tensor]) -> None:
    tensors["norm.weight"] = tensors["norm.weight"].long()


def _small_floats(tensors: dict[str, torch.Tensor]) -> None:
    tensors["head.weight"] = tensors["head.weight"].to(torch.float8_e4m3fn)


def _empty(tensors: dict[str, torch.Tensor]) -> None:
    tensors.clear()


@pytest.mark.parametrize("harm", [_without_embedding, _scalar_embedding, _integers, _small_floats, _empty])
@pytest.mark.parametrize("verb", ["eval", "generate", "export"])
def test_weights_of_no_such_model_are_refused(run: Run, verb: str, harm: Callable[..., None]) -> None:
    for checkpoint in list(run.checkpoints()):
        tensors = load_file(checkpoint.folder / "model.safetensors")
        harm(tensors)
        save_file(tensors, checkpoint.folder / "model.safetensors")
        reseal(checkpoint.folder)
    with pytest.raises(UserError, match="another model"):
        call(verb, run)


def test_a_recipe_of_huge_sizes_allocates_nothing(run: Run) -> None:
    text = run.recipe_file.read_text()
    run.recipe_file.write_text(text.replace("width: 16", "width: 1048576"))
    with pytest.warns(UserWarning, match="model.width is 1048576, and was 16"):
        assert run.recipe.recipe.model.width == 1 << 20
    with pytest.raises(UserError, match="another model"):
        call("generate", run)


def test_metrics_that_are_no_figures_are_dropped(run: Run, go: Go, capsys: pytest.CaptureFixture[str]) -> None:
    lines = run.metrics_file.read_bytes().splitlines(keepends=True)
    bad = [
        b'{"step": 3, "loss": "much"}', b'{"step": 3, "tokens": null}', b'{"step": 3, "\\ud800": 1}',
        b'{"step": 3, "val_bits_per_byte": "few"}', b'{"step": 3, "probe.recall.64.8": []}', b'{"step": 3, "lr": true}',
        b'{"step": 3, "loss": NaN}', b'{"step": 3, "x": -Infinity}', b'{"step": 3, "loss": 1e999}',
        b'{"step": 3, "x": 1' + b"0" * 400 + b"}", b'{"step": 3, "loss": [1]}', b"\xed\xa0\x80", b'{"step": 1e400}',
    ]  # fmt: skip
    odd = [
        b'{"step": 3, "loss": 2.0}',
        b'{"step": 3, "val_loss": null}',
        b'{"step": 3, "note": "\\u00e9", "window": {"0": [[]]}}',
    ]
    run.metrics_file.write_bytes(b"".join([*lines[:4], *(line + b"\n" for line in (*bad, *odd)), *lines[4:]]))
    assert run.metrics().damaged == len(bad)
    verbs()(["show", str(run.path), "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["runs"][0]["step"] == 12
    verbs()(["show", str(run.path)], standalone_mode=False)
    assert f"dropped {len(bad)} lines" in go(run.path, "train.steps=13", resume=True)


@pytest.mark.parametrize("device", ["/dev/zero", "pipe"])
def test_metrics_without_end_are_none(run: Run, device: str, tmp_path: Path) -> None:
    run.metrics_file.unlink()
    if device == "pipe":
        os.mkfifo(run.metrics_file)
    else:
        run.metrics_file.symlink_to(device)
    assert run.metrics() == ([], 0)


@pytest.mark.parametrize("name", [".lock", "recipe.yaml", ".metrics.jsonl.part", "tensorboard", "tokenizer.json"])
def test_nothing_is_written_through_a_link(run: Run, go: Go, tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    path = run.path / name
    if path.is_file():
        shutil.copy(path, victim)
    else:
        victim.write_text("precious")
    before = victim.read_bytes()
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(victim)
    with pytest.raises(UserError, match="is a symbolic link"):
        go(run.path, "train.steps=13", resume=True)
    assert victim.read_bytes() == before


def test_no_report_is_written_through_a_link(run: Run, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (run.path / "eval").mkdir(exist_ok=True)
    (run.path / "eval" / "report.html").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="is a symbolic link"):
        call("eval", run)
    shutil.rmtree(run.path / "eval")
    (tmp_path / "elsewhere").mkdir()
    (run.path / "eval").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a symbolic link"):
        call("eval", run)
    assert (tmp_path / "victim").read_text() == "precious" and not list((tmp_path / "elsewhere").iterdir())


def test_a_manifest_bounds_what_is_parsed(run: Run) -> None:
    newest = run.newest().checkpoint
    assert newest
    (newest.folder / "manifest.json").write_bytes(b"[" + b"[]," * (1 << 20) + b"[]]")
    with pytest.raises(Invalid, match="instead of at most"):
        read_manifest(newest.folder)


READ_ONLY = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv.pop(1))
from process_harness import Mounts
Mounts().read_only(Path(sys.argv.pop(1)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["train", "eval", "show", "generate"])
def test_a_folder_that_cannot_be_written(run: Run, recipe: Path, verb: str) -> None:
    """A read-only mount, which stops root, too."""
    arguments = {
        "train": ["train", str(recipe), "train.steps=13", "--run", str(run.path), "--resume"],
        "eval": ["eval", str(run.path), "--context", "32", "--device", "cpu"],
        "show": ["show", str(run.path)],
        "generate": ["generate", str(run.path), "window", "--tokens", "3"],
    }[verb]
    done = forked(READ_ONLY + COMMAND_LINE, str(ROOT / "tools" / "stress"), str(run.path), *arguments)
    if "unshare: " in done.stderr:
        pytest.skip(f"this system lets nobody mount: {done.stderr.strip().splitlines()[-1]}")
    assert "Traceback" not in done.stderr
    if verb in ("train", "eval"):
        assert done.returncode == 1 and "Read-only file system" in done.stderr and str(run.path) in done.stderr
    else:
        assert done.returncode == 0, done.stderr


def test_a_failure_names_the_newest_checkpoint(run: Run, go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "metrics.jsonl")

    monkeypatch.setattr("hybridkit.training.trainer.MetricsLog", refuse)
    with pytest.raises(Failure, match=r"Permission denied.*newest checkpoint: step-12"):
        go(run.path, "train.steps=13", resume=True)
