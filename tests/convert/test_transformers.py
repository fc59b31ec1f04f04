"""A Llama of transformers goes in, its weights begin a hybrid, and transformers opens what comes out."""

from pathlib import Path

import pytest
import torch
from checkpoint import LLAMA, instance, opened, save

import hybridkit
from hybridkit.convert.keep import kept_mixers, kept_pattern
from hybridkit.convert.mapping import map_weights
from hybridkit.hub.export import export_run
from hybridkit.hub.importing import import_folder, write_run
from hybridkit.model.config import ModelConfig
from hybridkit.model.model import Model
from hybridkit.model.plan import compile_pattern
from hybridkit.runs.run import Run
from hybridkit.runs.weights import weights_of
from hybridkit.system.errors import UserError

pytest.importorskip("transformers", reason="needs the hf extra")
pytestmark = pytest.mark.slow
TOKENS = 20


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An imported Llama with four layers, two key-value heads for four query heads, and random weights."""
    place = tmp_path_factory.mktemp("llama")
    save(instance("Llama", **LLAMA, num_hidden_layers=4, rope_theta=5e5), place / "theirs")
    return import_folder(place / "theirs", place / "run").run


def converted(teacher: Path, pattern: str, keep: list[int] | str, run: Path) -> Path:
    """A run with what a student of this pattern begins with."""
    old, loaded = hybridkit.load(teacher), Run(teacher).recipe.recipe
    config = ModelConfig.of(loaded, old.plan.dims.vocab)
    said = kept_pattern(compile_pattern(pattern, config), old.plan, kept_mixers(keep, old.plan))
    torch.manual_seed(1)
    student = Model(compile_pattern(said, config))
    layers = map_weights(old, student)
    assert sum(layer.how == "kept" and layer.student == "sa" for layer in layers) == len(kept_mixers(keep, old.plan))
    run.mkdir()
    recipe = loaded.model_copy(update={"pattern": student.plan.pattern})
    write_run(Run(run), recipe, student.plan, old.tokenizer, weights_of(student))
    return run


def tokens() -> torch.Tensor:
    return torch.randint(257, (2, TOKENS), generator=torch.Generator().manual_seed(2))


SHORT, LONG = "swa(kv_heads=2,theta=500000):9", "swa(kv_heads=2,theta=500000):20"
STUDENTS = [
    (f"{LONG}*4", [0, 2], "ministral"),
    (f"{SHORT}*4", [], "mistral"),
    (f"[{SHORT}, mlstm]*2", "last 1", "remote"),
    (f"[{SHORT} | mlstm(out_scale=.5)]*4", [3], "remote"),
]


@pytest.mark.parametrize(("pattern", "keep", "family"), STUDENTS)
def test_transformers_computes_what_the_converted_model_does(
    pattern: str, keep: list[int] | str, family: str, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    run = converted(teacher, pattern, keep, tmp_path / "run")
    assert export_run(run, tmp_path / "out").family == family
    found = opened(tmp_path / "out", trust_remote_code=True)(tokens()).logits
    ours = hybridkit.load(run)(tokens())[0]
    assert (found - ours).abs().max() <= 2e-5 * ours.abs().max()  # fp32: sums of some hundred products
    if pattern.startswith(LONG):  # windows that hide nothing: transformers' Llama itself
        theirs = opened(teacher.parent / "theirs")(tokens()).logits
        assert (found - theirs).abs().max() <= 2e-5 * theirs.abs().max()


def test_a_window_that_forgets_the_imported_positions_is_refused(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"the attention has theta=500000, .* write swa\(heads=4,kv_heads=2,head=8,theta"
    ):
        converted(teacher, "swa(kv_heads=2):9*4", [], tmp_path / "run")
