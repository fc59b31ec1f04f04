"""A context comes back from its file as it was, and from no other file."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import some_ids, tiny

from hybridkit.inference import context_file as states
from hybridkit.inference.context_file import load_context, save_context
from hybridkit.inference.decode import Context
from hybridkit.model.model import Model
from hybridkit.system.errors import UserError

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


@pytest.mark.slow
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


def rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], object]) -> None:
    """Change what a file says and holds, with a hash that agrees, as whoever wrote it can."""
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["hybridkit context"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    del about["hash"]
    change(about, tensors)
    said = json.dumps(about | {"hash": states._hash(about, tensors)})
    save_file(tensors, path, metadata={"hybridkit context": said})


CRAFTED: dict[str, Callable[[dict[str, Any], dict[str, torch.Tensor]], object]] = {
    "no model": lambda about, _: about.pop("model"),
    "a model that is no text": lambda about, _: about.update(model=["x"]),
    "tokens in words": lambda about, _: about.update(tokens="many"),
    "no tokens": lambda about, _: about.update(tokens=0),
    "more tokens": lambda about, _: about.update(tokens=21),
    "tokens without end": lambda about, _: about.update(tokens=2**70),
    "a negative window": lambda about, _: about.update(window=-1),
    "a larger window": lambda about, _: about.update(window=7),
    "a window in words": lambda about, _: about.update(window="all"),
    "no logits": lambda _, tensors: tensors.pop("logits"),
    "logits of another vocabulary": lambda _, tensors: tensors.update(logits=torch.zeros(1, 3).double()),
    "logits of no row": lambda _, tensors: tensors.update(logits=torch.zeros(0, 257).double()),
    "a number as logits": lambda _, tensors: tensors.update(logits=torch.tensor(1.0).double()),
    "logits that are no numbers": lambda _, tensors: tensors["logits"].fill_(float("nan")),
    "no keys": lambda _, tensors: tensors.pop("0.k"),
    "keys of another shape": lambda _, tensors: tensors.update({"0.k": torch.zeros(1, 4, 2, 3).double()}),
    "keys of another type": lambda _, tensors: tensors.update({"0.k": tensors["0.k"].float()}),
    "keys that are integers": lambda _, tensors: tensors.update({"2.k": tensors["2.k"].long()}),
    "a memory of two rows": lambda _, tensors: tensors.update({"4.n": tensors["4.n"].expand(2, -1, -1).clone()}),
    "small floats": lambda _, tensors: tensors.update({"4.m": tensors["4.m"].to(torch.float8_e4m3fn)}),
    "another version": lambda about, _: about.update(version=2),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_file_is_refused_in_words(saved: Path, model: Model, name: str) -> None:
    rewrite(saved, CRAFTED[name])
    with pytest.raises(UserError, match=str(saved)):
        load_context(saved, model)


def test_counts_without_sense_are_refused_or_read(saved: Path, model: Model) -> None:
    """No law says what a block's own integers mean: they lead to a message, or to a state that can be gone on with."""
    for field in ("position", "since", "window"):
        for value in (-1, -(2**63), 2**62, 2**63 - 1):
            rewrite(saved, lambda _, tensors, field=field, value=value: tensors[f"0.{field}"].fill_(value))
            with contextlib.suppress(UserError):
                assert len(list(model.generate(load_context(saved, model), max_tokens=3))) == 3


def test_metadata_nested_without_end_are_refused(saved: Path, model: Model) -> None:
    save_file({"logits": torch.zeros(1, 257)}, saved, metadata={"hybridkit context": "[" * 10**5})
    with pytest.raises(UserError, match="nested too deep"):
        load_context(saved, model)
