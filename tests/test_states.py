"""A context comes back from its file as it was, and from no other file."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import some_ids, tiny

from hybridkit.decode import Context
from hybridkit.errors import UserError
from hybridkit.model import Model
from hybridkit.states import load_context, save_context

PATTERN = "[swa:8, swa:1, sa, ffn, mlstm]"


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny(PATTERN)


@pytest.fixture
def saved(model: Model, tmp_path: Path) -> Path:
    path = tmp_path / "read.state"
    save_context(model.prefill(some_ids(20), window=6), model, path)
    return path


def same(a: Context, b: Context) -> bool:
    pairs = [pair for left, right in zip(a.states, b.states, strict=True) for pair in zip(left, right, strict=True)]
    return (a.tokens, a.window, [*map(type, a.states)]) == (b.tokens, b.window, [*map(type, b.states)]) and all(
        torch.equal(left, right) and left.dtype == right.dtype for left, right in [*pairs, (a.logits, b.logits)]
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_context_comes_back_as_it_was(tmp_path: Path, dtype: torch.dtype, rows: int) -> None:
    model = tiny(PATTERN, dtype)
    context = model.prefill([some_ids(20 + row, seed=row)[0] for row in range(rows)], window=6)
    save_context(context, model, tmp_path / "state")
    loaded = load_context(tmp_path / "state", model)
    assert same(loaded, context)
    expected = list(model.generate(context, max_tokens=10))
    assert all(map(torch.equal, model.generate(loaded, max_tokens=10), expected))


def test_another_model_is_refused(saved: Path) -> None:
    other_weights, other_layers = tiny(PATTERN, seed=1), tiny("[swa:9, swa:1, sa, ffn, mlstm]")
    for other in (other_weights, other_layers, tiny(PATTERN, torch.float32)):
        with pytest.raises(UserError, match="another model"):
            load_context(saved, other)


def test_a_file_that_was_cut_off_is_refused(saved: Path, model: Model) -> None:
    whole = saved.read_bytes()
    for length in (0, 1, 8, 100, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:length])
        with pytest.raises(UserError):
            load_context(saved, model)


def test_a_flipped_byte_is_refused_wherever_it_stands(saved: Path, model: Model) -> None:
    whole = saved.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 300)):
        saved.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with pytest.raises(UserError):
            load_context(saved, model)


def test_other_files_are_refused(tmp_path: Path, model: Model) -> None:
    text, weights = tmp_path / "text", tmp_path / "weights"
    text.write_text("not a state")
    save_file({"logits": torch.zeros(1, 257)}, weights)
    for path in (text, weights, tmp_path, tmp_path / "nothing"):
        with pytest.raises(UserError, match=str(path)):
            load_context(path, model)


def test_a_changed_position_is_noticed(saved: Path, model: Model) -> None:
    """The hash covers what the file says, not the tensors alone."""
    with safe_open(saved, "pt") as file:
        about = file.metadata()["hybridkit context"]
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    save_file(tensors, saved, metadata={"hybridkit context": about.replace('"tokens": 20', '"tokens": 21')})
    with pytest.raises(UserError, match="damaged"):
        load_context(saved, model)


def test_saving_again_replaces_the_file_and_leaves_nothing_beside(saved: Path, model: Model) -> None:
    context = model.prefill(some_ids(33))
    save_context(context, model, saved)
    assert same(load_context(saved, model), context)
    assert list(saved.parent.iterdir()) == [saved]
