"""The bytes of state that `flops` counts for a recipe are those that decoding from a run of it holds."""

import json
from pathlib import Path

import pytest
from checkpoint import run_of
from told import Go
from typer.testing import CliRunner

from hybridkit.cli import verbs
from hybridkit.hub.export import export_run

PATTERN = "pattern=[swa:stoch(4,16,p=.5), mlstm, sa]*1"


def said(*words: str) -> dict[str, object]:
    result = CliRunner().invoke(verbs(), [*words, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
def test_flops_counts_what_generate_holds(go: Go, recipe: Path, tmp_path: Path, precision: str) -> None:
    changes = [PATTERN, f"train.precision={precision}", "train.steps=1"]
    go(tmp_path / "run", *changes)
    for prompt, tokens in (("short", 9), ("a prompt beyond the window " * 3, 100)):
        options = ["--tokens", str(tokens), "--temperature", "0"]
        stats = said("generate", str(tmp_path / "run"), prompt, *options)
        context = str(len(prompt) + tokens)
        (entry,) = said("flops", str(recipe), *changes, "--context", context)["recipes"]  # type: ignore[misc]
        assert stats["tokens"] == tokens, "the reply ended early, so that decoding had less to hold"
        assert stats["state_bytes"] == entry["state_bytes"][context]
        assert entry["dtype"] == ("float64" if precision == "fp64" else "float32")
    (of_run,) = said("flops", str(tmp_path / "run/recipe.yaml"), "--context", context)["recipes"]  # type: ignore[misc]
    assert of_run["state_bytes"][context] == entry["state_bytes"][context]
    unread = said("generate", str(tmp_path / "run"), "short", "--tokens", "0")
    (entry,) = said("flops", str(recipe), *changes, "--context", "5")["recipes"]  # type: ignore[misc]
    assert unread["state_bytes"] == entry["state_bytes"]["5"]


def test_flops_of_a_folder_counts_in_the_type_of_its_weights(tmp_path: Path) -> None:
    """An import or an export in bf16 decodes in bf16; its costs were those of fp32."""
    run_of("[swa:8, mlstm, sa]", tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "small", "hybridkit", "bf16")
    stats = said("generate", str(tmp_path / "small"), "a prompt", "--tokens", "20", "--temperature", "0")
    context = str(len("a prompt") + int(str(stats["tokens"])))
    (entry,) = said("flops", str(tmp_path / "small/recipe.yaml"), "--context", context)["recipes"]  # type: ignore[misc]
    assert entry["dtype"] == "bfloat16" and entry["state_bytes"][context] == stats["state_bytes"]
