"""The tokens that end a text by a checkpoint, beside the one that ends a document in the run."""

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoint import LLAMA, instance, save
from command_line import hybridkit as verb

from hybridkit.hub.importing import import_folder
from hybridkit.system.errors import UserError

pytest.importorskip("transformers", reason="needs the hf extra")
pytestmark = pytest.mark.slow
GENERATION = "generation_config.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = save(instance("Llama", **LLAMA, num_hidden_layers=1), tmp_path / "theirs")
    (place / GENERATION).unlink(missing_ok=True)
    return place


def says(folder: Path, ends: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": ends}))


def test_ends_that_the_run_does_not_have_are_said(folder: Path, tmp_path: Path) -> None:
    """generation_config.json counts before config.json, as for transformers."""
    assert import_folder(folder, tmp_path / "a").notes == []
    (folder / GENERATION).write_text('{"eos_token_id": [256, 10]}')
    (note,) = import_folder(folder, tmp_path / "b").notes
    assert "with token 256 (<|endoftext|>), token 10" in note
    assert "in the run token 256 (<|endoftext|>) ends a document" in note
    done = verb("import", "theirs", "--run", "c", cwd=tmp_path)
    assert done.stdout.splitlines()[1] == f"note: {note}"
    (folder / GENERATION).write_text("{}")
    says(folder, 300 - 45)
    (note,) = import_folder(folder, tmp_path / "d").notes
    assert "with token 255" in note
    says(folder, None)
    assert import_folder(folder, tmp_path / "e").notes == []


@pytest.mark.parametrize("ends", [257, -1, True, "</s>", [[1]], 256.0, list(range(65))], ids=str)
def test_what_is_no_token_is_refused(ends: Any, folder: Path, tmp_path: Path) -> None:
    says(folder, ends)
    with pytest.raises(
        UserError, match=r"config.json: eos_token_id: .* should be a token, or a list of some, from 0 to"
    ):
        import_folder(folder, tmp_path / "run")
    says(folder, 256)
    for content, said in ((json.dumps({"eos_token_id": ends}), "eos_token_id"), ("[]", "an object"), ("{", "not JSON")):
        (folder / GENERATION).write_text(content)
        with pytest.raises(UserError, match=f"{GENERATION}: .*{said}"):
            import_folder(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()
