"""Run folders are read without trust: what is damaged or malicious is refused, named, and passed over."""

import hashlib
import json
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint import run_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import TempPathFactory
from safetensors.torch import save_file

import hybridkit
from hybridkit.block import Dims, Layer
from hybridkit.runs.manifest import SEAL, Invalid, Manifest, read_manifest, sealed, stamp
from hybridkit.runs.metrics import MAX_LINE, last_line, last_steps, read_metrics
from hybridkit.runs.run import Run
from hybridkit.runs.weights import read_tensors
from hybridkit.system.errors import UserError
from hybridkit.system.notices import listening
from hybridkit_blocks.ffn import FeedForward


def write_checkpoint(run: Run, step: int) -> Path:
    folder = run.checkpoint_folder / f"step-{step}"
    folder.mkdir(parents=True)
    save_file({"w": torch.full((40,), float(step))}, folder / "model.safetensors")
    save_file({"w.exp_avg": torch.zeros(40)}, folder / "optimizer.safetensors")
    (folder / "state.json").write_text(json.dumps({"step": step}))
    files = {path.name: stamp(path) for path in folder.iterdir()}
    manifest = Manifest(
        step=step, engine="local", zero=0, ranks=1, threads=1, versions={}, data="d", model="m", files=files
    )
    (folder / "manifest.json").write_bytes(sealed(manifest))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run(tmp_path / "run")
    for step in (9, 10):
        write_checkpoint(made, step)
    return made


def newest(run: Run) -> Path:
    return run.checkpoint_folder / "step-10"


def test_the_newest_by_number(run: Run) -> None:
    found = run.newest()
    assert found.checkpoint and found.checkpoint.step == 10 and not found.skipped
    assert run.weights()["w"][0] == 10


def test_that_an_older_checkpoint_is_used_is_told_once(run: Run) -> None:
    (newest(run) / "model.safetensors").write_bytes(b"")
    said = list[str]()
    with listening(said.append):
        assert run.weights()["w"][0] == 9 and run.chosen()[0].step == 9
    assert len(said) == 1 and "the checkpoint of step 9, since newer ones cannot be used\n  step-10: " in said[0]


def test_without_a_listener_an_older_checkpoint_is_a_warning(run: Run) -> None:
    (newest(run) / "model.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match="the checkpoint of step 9, since newer ones cannot be used"):
        run.chosen()
    assert run.chosen(9)[0].step == 9  # asked for by number: nothing to tell


def test_any_flipped_byte_and_any_cut_is_found(run: Run) -> None:
    draw = random.Random(0)
    files = sorted(newest(run).iterdir())
    for turn in range(120):
        path = files[turn % len(files)]
        good = path.read_bytes()
        place = draw.randrange(len(good))
        flipped = bytes([good[place] ^ 1 << draw.randrange(8)])
        path.write_bytes(good[:place] if turn % 8 >= 4 else good[:place] + flipped + good[place + 1 :])
        found = run.newest()
        harmless = path.name == "manifest.json" and _same(path.read_bytes(), good)
        assert found.checkpoint and found.checkpoint.step == (10 if harmless else 9), (path.name, place)
        path.write_bytes(good)


def _same(bad: bytes, good: bytes) -> bool:
    """Whether only white space between words changed."""
    try:
        return bool(json.loads(bad) == json.loads(good))
    except ValueError:
        return False


def _edit(folder: Path, change: Callable[[dict], object]) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    del content[SEAL]  # whoever writes the manifest can seal it, too
    seal = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({**content, SEAL: seal}))


def _name(name: str) -> Callable[[Path], None]:
    return lambda folder: _edit(folder, lambda m: m["files"].update({name: m["files"]["state.json"]}))


def _link(folder: Path) -> None:
    shutil.move(folder / "state.json", folder.parent / "elsewhere")
    (folder / "state.json").symlink_to(folder.parent / "elsewhere")


def _folder_link(folder: Path) -> None:
    shutil.move(folder, folder.parent / "elsewhere")
    folder.symlink_to(folder.parent / "elsewhere")


ATTACKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "parent": (_name("../../secret"), "not the name of a file inside"),
    "absolute": (_name("/etc/passwd"), "not the name of a file inside"),
    "hidden": (_name("a/../../b"), "not the name of a file inside"),
    "newline": (_name("a\n"), "not the name of a file inside"),
    "link": (_link, "not a regular file"),
    "folder link": (_folder_link, "symbolic link"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "manifest.json: No such file"),
    "no weights listed": (lambda f: _edit(f, lambda m: m["files"].pop("model.safetensors")), "does not list model"),
    "missing file": (lambda f: (f / "optimizer.safetensors").unlink(), "optimizer.safetensors: No such file"),
    "another step": (lambda f: _edit(f, lambda m: m.update(step=11)), "names step 11"),
    "another format": (lambda f: _edit(f, lambda m: m.update(format=2)), "format"),
    "more keys": (lambda f: _edit(f, lambda m: m.update(run="rm")), "run"),
    "no seal": (lambda f: (f / "manifest.json").write_text('{"step": 10}'), "is damaged"),
    "a list": (lambda f: (f / "manifest.json").write_text("[1]"), "is damaged"),
    "nested": (lambda f: (f / "manifest.json").write_text("[" * 100_000), "is not JSON"),
    "huge": (lambda f: (f / "manifest.json").write_text(" " * (16 * 2**20 + 1)), "instead of at most"),
    "pickle": (lambda f: (f / "manifest.json").write_bytes(b"\x80\x04cos\nsystem\n."), "is not JSON"),
    "a folder": (lambda f: ((f / "state.json").unlink(), (f / "state.json").mkdir()), "not a regular file"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_a_manifest_does_not_vouch_for_is_passed_over(run: Run, attack: str) -> None:
    harm, said = ATTACKS[attack]
    harm(newest(run))
    found = run.newest()
    assert found.checkpoint and found.checkpoint.step == 9
    assert said in found.skipped["step-10"]


FIELDS = list(Manifest.model_fields)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(content=JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60))
def test_no_manifest_and_no_metrics_file_breaks_the_reader(content: bytes, tmp_path_factory: TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "odd" / "step-1"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("manifest.json", content), ("metrics.jsonl", content + b"\n" + content)):
        (folder / name).write_bytes(text)
    with pytest.raises(Invalid):
        read_manifest(folder)
    (folder / "manifest.json").write_bytes(_seal(content))
    with pytest.raises(Invalid):
        read_manifest(folder)
    read_metrics(folder / "metrics.jsonl")


def _seal(content: bytes) -> bytes:
    """The same with a hash that fits, where that is possible."""
    try:
        value = json.loads(content)
    except ValueError:
        return content
    seal = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    return json.dumps({**value, SEAL: seal}).encode() if isinstance(value, dict) else content


@pytest.mark.parametrize("length", [2 * 2**30, 2**63, 100])
def test_a_safetensors_header_is_bounded(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(Invalid, match="header"):
        read_tensors(path)


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"\x02" + bytes(7) + b"[]", b"\x02" + bytes(7) + b"\xff\xff"])
def test_junk_is_no_safetensors_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(Invalid, match="no safetensors file"):
        read_tensors(path)


def test_errors_say_what_is_missing(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run folder"):
        _ = Run(tmp_path / "none").recipe
    with pytest.raises(UserError, match=r"holds no recipe\.yaml"):
        _ = run.recipe
    for step in (9, 10):
        (run.checkpoint_folder / f"step-{step}" / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"no valid checkpoint\n  step-10: model.safetensors has 4 bytes.*\n  step-9: "):
        run.weights()


def test_metrics_are_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = ['{"step": 1, "loss": 2.0}', "junk", "[" * 5000, '{"step": true}', '{"step": -1}', "3", "", '{"step": 2}']
    path.write_text("\n".join(lines) + '\n{"step": 3}')
    found = read_metrics(path)
    assert [line["step"] for line in found.lines] == [1, 2] and found.damaged == 7
    assert read_metrics(tmp_path / "none") == ([], 0)


def test_the_loss_of_a_run_is_of_its_last_steps_alone() -> None:
    """It was the mean of 50 steps: of a run of 60 steps nearly all, most of them long before its validation."""
    assert [last_steps(steps) for steps in (0, 1, 10, 60, 500, 10**6)] == [0, 1, 1, 6, 50, 50]


@pytest.mark.slow
def test_the_last_line_with_a_metric_is_found_without_reading_all(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert last_line(path, "loss") is None
    lines = [{"step": 1, "loss": 2.5}, {"step": 1, "val_loss": 2.0}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 2, "loss": 1', encoding="utf-8")
    assert last_line(path, "loss") == lines[0]  # a cut line is none
    assert last_line(path, "val_loss") == lines[1]
    with path.open("ab") as file:
        file.write(b"\n" + b'{"step": 2}\n' * (MAX_LINE // 12 + 1))
    assert last_line(path, "loss") is None  # its end alone is read
    assert last_line(path, "step") == {"step": 2}


def test_a_buffer_that_no_checkpoint_holds_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a plug-in's mask: it was whatever stood in memory."""
    right = FeedForward.build

    def build(self: FeedForward, dims: Dims) -> Layer:
        layer = right(self, dims)
        layer.register_buffer("mask", torch.full((3,), 0.5), persistent=False)
        return layer

    monkeypatch.setattr(FeedForward, "build", build)
    (found,) = hybridkit.load(run_of("ffn", tmp_path / "run")).buffers()
    assert found.tolist() == [0.5] * 3


def test_a_recipe_that_was_edited_after_training_is_told(tmp_path: Path) -> None:
    """Otherwise figures of another model than the one that was trained would be silent."""
    run = run_of("[swa:stoch(4,16), sa]", tmp_path / "run", ffn={"width": 48, "block": "ffn"})
    edits = {"stoch(4,16)": "stoch(4,8)", "vocab: null": "vocab: 257"}
    said: list[str] = []
    with listening(said.append):
        hybridkit.load(run)
        assert not said
        file = run / "recipe.yaml"
        for old, new in edits.items():
            text = file.read_text(encoding="utf-8")
            assert old in text
            file.write_text(text.replace(old, new), encoding="utf-8")
        hybridkit.load(run)
        older = read_manifest(run / "checkpoints" / "step-0").model_copy(update={"recipe": None})
        (run / "checkpoints" / "step-0" / "manifest.json").write_bytes(sealed(older))
        hybridkit.load(run)
    assert "recipe.yaml is not the recipe that the newest checkpoint was trained by" in said[0]
    assert said[0].endswith(": pattern is [swa:stoch(4,8), sa], and was [swa:stoch(4,16), sa]")
    assert "recipe.yaml says another model than the one that was trained: [swa:stoch(4,8), sa] width=32" in said[1]
