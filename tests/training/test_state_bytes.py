"""The bytes of state that `flops` counts for a recipe are those that decoding from a run of it holds."""

import json
from pathlib import Path

import pytest
from told import Go
from typer.testing import CliRunner

from hybridkit.cli import verbs

PATTERN = "pattern=[swa:stoch(4,16,p=.5), mlstm, sa]*1"


def said(*words: str) -> dict[str, object]:
    result = CliRunner().invoke(verbs(), [*words, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


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
    unread = said("generate", str(tmp_path / "run"), "short", "--tokens", "0")
    (entry,) = said("flops", str(recipe), *changes, "--context", "5")["recipes"]  # type: ignore[misc]
    assert unread["state_bytes"] == entry["state_bytes"]["5"]
