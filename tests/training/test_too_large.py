"""Training that runs out of memory names the settings that fit by the cost model, and no others."""

from pathlib import Path

import pytest
import torch

from hybridkit.model.loading import plan
from hybridkit.recipe.files import read_recipe
from hybridkit.system.errors import Failure
from hybridkit.training.engines.local.engine import LocalEngine
from hybridkit.training.micro_batches import training_bytes
from hybridkit.training.reporter import Silent
from hybridkit.training.too_large import lighter_settings
from hybridkit.training.trainer import run_training

RECIPE = """\
pattern: [swa:8, mlstm]
model: {width: 32, heads: 2}
data: {sequence: 64}
train: {steps: 2, batch_tokens: 512, micro_batch: 8, precision: fp32, device: cpu}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "r.yaml"
    file.write_text(RECIPE, encoding="utf-8")
    return file


@pytest.mark.slow
def test_what_fits_is_named_and_nothing_else(recipe: Path) -> None:
    loaded = read_recipe(recipe)
    compiled, train = plan(loaded), loaded.recipe.train
    fewer = training_bytes(compiled, train, 64, 4, "fp32")
    all_of_it = lighter_settings(loaded.recipe, compiled, 8, "fp32", 1 << 40)
    assert "train.micro_batch=4" in all_of_it and "train.recompute=true" in all_of_it
    tight = lighter_settings(loaded.recipe, compiled, 8, "fp32", fewer)  # of which .85 may be filled
    assert "train.micro_batch=4 " not in tight and "train.micro_batch=1 " in tight
    assert "a smaller model" in lighter_settings(loaded.recipe, compiled, 8, "fp32", 1000)


def test_training_ends_with_the_settings(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(LocalEngine, "gradients", full)
    with pytest.raises(Failure, match=r"train\.micro_batch=4"):
        run_training(read_recipe(recipe), tmp_path / "run", resume=False, reporter=Silent())
