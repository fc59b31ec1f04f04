"""An exported folder says all that a run's model is: another program builds the same from it."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from checkpoint import run_of
from command_line import hybridkit as verb
from safetensors.torch import load_file

import hybridkit
from hybridkit.data.tokenizer import ByteTokenizer
from hybridkit.hub.importing import write_run
from hybridkit.model.model import Model
from hybridkit.runs.run import Run

RECIPE = """\
pattern: [swa(kv_heads=1):stoch(4,8), mlstm, sa]
model: {width: 16, heads: 2, logit_cap: 30}
data: {source: text.txt, sequence: 16, validation: .2}
train: {steps: 1, batch_tokens: 64, precision: fp32, device: cpu}
"""


@pytest.fixture(scope="module", params=["model.tie=false", "model.tie=true", "data.tokenizer=train(300)"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    (folder / "text.txt").write_text("def square(x):\n    return x * x\n" * 40)
    (folder / "tiny.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYBRIDKIT_CACHE", str(folder / "cache"))
        done = verb("train", "tiny.yaml", request.param, "--run", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def export(run: Path, folder: Path) -> list[Path]:
    done = verb("export", str(run), str(folder), "--format", "hybridkit", "--json", cwd=run)
    assert done.returncode == 0, done.stderr
    return [Path(file) for file in json.loads(done.stdout)["files"]]


def rebuilt(folder: Path) -> Model:
    """The model, from the files of an export alone."""
    said = json.loads((folder / "config.json").read_text())
    sizes = {name: said[name] for name in ("width", "heads", "vocab", "logit_cap")}
    model = hybridkit.build(said["pattern"], tie=said["tied"], **sizes)
    assert len(model.layers) == len(said["layers"])
    missing = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    assert not missing.unexpected_keys and set(missing.missing_keys) <= ({"head.weight"} if said["tied"] else set())
    return model


def test_a_model_built_from_it_computes_the_same_bits(run: Path, tmp_path: Path) -> None:
    files = export(run, tmp_path / "out")
    ids = torch.randint(257, (2, 11), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(rebuilt(tmp_path / "out")(ids)[0], hybridkit.load(run)(ids)[0])
        assert torch.equal(hybridkit.load(tmp_path / "out")(ids)[0], hybridkit.load(run)(ids)[0])
    expected = {"model.safetensors", "config.json", "recipe.yaml", "manifest.json", "README.md"}
    expected |= {file.name for file in run.glob("tokenizer.json")}
    assert {file.name for file in files} == expected == {file.name for file in (tmp_path / "out").iterdir()}
    for file in run.glob("tokenizer.json"):
        assert json.loads(file.read_text()) == json.loads((tmp_path / "out" / file.name).read_text())


def test_arguments_and_windows_of_every_layer_are_said(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "out")
    layers = json.loads((tmp_path / "out/config.json").read_text())["layers"]
    assert [layer["block"] for layer in layers] == ["swa", "ffn", "mlstm", "ffn", "sa", "ffn"]
    assert layers[0]["window"] == {"policy": "stoch(4,8)", "largest": 8} and layers[0]["arguments"]["kv_heads"] == 1
    assert all(layer["window"] is None for layer in layers[1:])
    sizes = [layer["arguments"].get(name, 0) for layer in layers for name in ("heads", "kv_heads", "head", "width")]
    assert None not in sizes and layers[1]["arguments"]["width"] == 64


@pytest.mark.slow
def test_an_export_is_generated_from_and_evaluated_like_its_run(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "out")
    places = (run, tmp_path / "out")
    said = [verb("generate", str(place), "def ", "--tokens", "5", "--json", cwd=run.parent) for place in places]
    one, other = (json.loads(done.stdout)["replies"] for done in said)
    assert one == other
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYBRIDKIT_CACHE", str(run.parent / "cache"))
        found = [verb("eval", str(place), "--json", cwd=run.parent) for place in places]
    losses = [row["loss"] for done in found for rows in json.loads(done.stdout)["perplexity"].values() for row in rows]
    assert len(losses) == 2 and losses[0] == losses[1]


def test_files_have_the_permissions_that_the_user_gives_new_files(run: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        assert {file.stat().st_mode & 0o777 for file in export(run, tmp_path / "out")} == {0o640}
    finally:
        os.umask(before)


@pytest.mark.slow
def test_a_checkpoint_and_the_mean_of_the_weights_are_exported_on_request(run: Path, tmp_path: Path) -> None:
    words = ["train.ema=.5", "train.steps=2", "train.checkpoint_every=1", "train.validate_every=1", "--run", "mean"]
    shutil.copy(run.parent / "text.txt", tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYBRIDKIT_CACHE", str(run.parent / "cache"))
        assert verb("train", str(run.parent / "tiny.yaml"), *words, cwd=tmp_path).returncode == 0
    made = verb("export", "mean", "out", "--format", "hybridkit", "--average", "--checkpoint", "1", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    ids = torch.arange(9)[None]
    with torch.no_grad():
        wanted = hybridkit.load(tmp_path / "mean", 1, average=True)(ids)[0]
        assert torch.equal(hybridkit.load(tmp_path / "out")(ids)[0], wanted)
    text = (tmp_path / "out" / "README.md").read_text()
    line = next(line for line in Run(tmp_path / "mean").metrics().lines if "val_loss_ema" in line)
    assert "1 of 2" in text and "running mean of decay 0.5" in text and f"{line['val_loss_ema']:.4f}" in text
    refused = verb("export", str(run), "none", "--average", cwd=tmp_path)
    assert refused.returncode == 2 and "train.ema" in refused.stderr


def test_what_cannot_be_exported_is_refused_and_nothing_is_written(run: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    refused = verb("export", str(run), "full", cwd=tmp_path)
    assert refused.returncode == 2 and "exists; name a new folder" in refused.stderr
    shutil.copytree(run, tmp_path / "empty")
    shutil.rmtree(tmp_path / "empty/checkpoints")
    for source in ("nothing", "empty"):
        refused = verb("export", source, "out", cwd=tmp_path)
        assert refused.returncode == 2 and source in refused.stderr and not (tmp_path / "out").exists()
    assert not list((tmp_path / "full").iterdir())


def test_no_name_can_write_into_the_card(tmp_path: Path) -> None:
    """The author of a run's name, a text's or a folder's could draw on a page of the Hub, or in the code to copy."""
    run = run_of("[swa:8 | sa]", tmp_path / "a[b]<script>\x1b[2J|\n---")
    folder = tmp_path / 'x") or `y`\n#'
    assert verb("export", str(run), str(folder), cwd=tmp_path).returncode == 0
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "# a\\[b\\]\\<script\\>\\\\x1b\\[2J\\|\\\\n---\n" in text and "\x1b" not in text
    assert "| pattern | `[swa(heads=4" not in text and r"| pattern | `swa:8 \| sa` |" in text
    assert "x\\\") or 'y'\\\\n#\"" in text


@pytest.mark.parametrize("format", ["hf", "hybridkit"])
def test_a_weight_that_a_narrower_type_cannot_hold_is_named_and_nothing_is_written(format: str, tmp_path: Path) -> None:
    run = run_of("sa", tmp_path / "run")
    weights = Run(run).weights()
    weights["layers.0.sa.q.weight"][1, 2] = -1e5
    (tmp_path / "wide").mkdir()
    write_run(Run(tmp_path / "wide"), Run(run).read_recipe().recipe, hybridkit.load(run).plan, ByteTokenizer(), weights)
    for dtype in ("fp16", "bf16"):
        done = verb("export", "wide", dtype, "--format", format, "--dtype", dtype, cwd=tmp_path)
        assert done.returncode == (2 if dtype == "fp16" else 0), done.stderr
        if dtype == "fp16":
            assert "q" in done.stderr and "holds 100000, and float16 ends at 65504" in done.stderr
            assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "wide"]
