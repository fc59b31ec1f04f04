"""`convert --dry-run`: what it says of the teacher's memory is what the stages hold."""

from pathlib import Path

import pytest
from checkpoint import LLAMA, instance, save
from converted import STAGES, Change

from hybridkit.convert.conversion import open_conversion
from hybridkit.convert.estimate import estimate_conversion
from hybridkit.recipe.files import read_mapping
from hybridkit.runs.run import Run
from hybridkit.system.errors import UserError
from hybridkit.training.engine import open_engine


@pytest.mark.slow
@pytest.mark.parametrize("freeze", [{}, {"ffn": 9, "embedding": 9}, {"mlstm": 9}], ids=str)
def test_the_teachers_bytes_are_those_that_a_stage_holds(
    freeze: dict[str, int], teacher: Path, student: Change, whole: Path, tmp_path: Path
) -> None:
    train = {**student()["train"], "freeze": freeze}  # type: ignore[dict-item]
    loaded = read_mapping(student(train=train), {})
    said = estimate_conversion(str(teacher), loaded, 1, tmp_path)["stages"]
    conversion = open_conversion(str(teacher), loaded, tmp_path / "run")
    for stage, found in zip(conversion.stages[:2], said, strict=False):
        engine = open_engine(stage.plan, stage.loaded.recipe.train)
        engine.load_weights(Run(whole / "stages/0-mapped").weights(), "mapped")  # as what is frozen stays
        objective = stage.objective(conversion.teacher)
        objective.begin(engine.model)
        assert found["memory"]["teacher"] == objective.held_bytes > 0
    assert said[2]["memory"]["teacher"] == 0


def test_the_errors_of_hidden_states_hold_less_than_the_training_of_all(
    teacher: Path, student: Change, tmp_path: Path
) -> None:
    """Gradients and moments of the new mixers, and what these keep for backward."""
    stages = [{"loss": "hidden", "steps": 1}, {"loss": "kl", "steps": 1}]
    loaded = read_mapping(student(convert={"stages": stages}), {})
    hidden, whole = (one["memory"] for one in estimate_conversion(str(teacher), loaded, 1, tmp_path)["stages"])
    assert all(hidden[part] < whole[part] for part in ("held", "teacher", "activations"))
    for checkpoint, why in (("977", "no checkpoint of step 977; it has checkpoints of the steps"), ("bets", "`best`")):
        with pytest.raises(UserError, match=why):
            estimate_conversion(str(teacher), loaded, 1, tmp_path, checkpoint)


@pytest.mark.slow
def test_a_folder_of_transformers_is_described_and_nothing_of_it_is_kept(student: Change, tmp_path: Path) -> None:
    source = save(instance("Llama", **LLAMA | {"num_hidden_layers": 2, "tie_word_embeddings": False}), tmp_path / "in")
    (source / "model.safetensors").unlink()  # weights are not read
    recipe = student(
        pattern="[swa(kv_heads=2):8, sa(kv_heads=2)]",
        model={"width": 32, "heads": 4, "norm_eps": 1e-5, "ffn": {"block": "ffn", "width": 48}},
        convert={"stages": STAGES[1:]},
    )
    (tmp_path / "scratch").mkdir()
    found = estimate_conversion(str(source), read_mapping(recipe, {}), 1, tmp_path / "scratch")
    assert found["teacher"]["pattern"] == "sa(kv_heads=2)*2"
    assert found["stages"][0]["memory"]["teacher"] == 4 * found["teacher"]["parameters"]
