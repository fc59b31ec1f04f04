"""One file of every kind, from a folder outside: the examples of CONTRIBUTING.md are named, used and resumed."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from examples import EXAMPLES, write_examples
from plugins import new_process
from spaces import try_all

from hybridkit.cli import main
from hybridkit.cli.blocks import every_kind
from hybridkit.runs.run import Run
from hybridkit.runs.weights import read_tensors

TRAINING = ("decay", "flip", "heavy", "power", "counting", "table", "numbers", "letters")  # what a recipe may name
RECIPE = """\
pattern: [swa:flip(2,4), decay]
model: {width: 8, heads: 2, ffn: null}
data: {source: numbers(30), tokenizer: letters(3), sequence: 16, validation: .2}
train: {steps: 4, batch_tokens: 32, precision: fp32, device: cpu, checkpoint_every: 2, validate_every: 9, lr: 1e-2,
  min_lr: 0, warmup: 0, schedule: {name: power, exponent: 2}, optimizer: {name: heavy, momentum: .5}, engine: counting,
  first: 10, log: [table]}
"""
OWN = ["engine=local", "optimizer=adamw", "schedule=constant", "log=[]"]
LLAMA = [
    "pattern=sa",
    "data.tokenizer=bytes",
    "model.ffn={width: 8}",
    "train.steps=1",
    *(f"train.{one}" for one in OWN),
]
SPACE = "extends: r.yaml\nspace:\n  model.width: [8, 16, 24]\nsampler: widest\npruner: {name: halfway, least: 1}\n"
Call = Callable[..., tuple[int, str]]


@pytest.fixture
def outside(no_plugins: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The options that name all files, for a user who trusts nothing yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYBRIDKIT_CACHE", str(tmp_path / "cache"))
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that what training sets is taken back
        monkeypatch.delenv(name)
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "s.yaml").write_text(SPACE)
    return write_examples(tmp_path / "mine", *EXAMPLES)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line in this process: exit code, and what was printed."""

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["hybridkit", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), "".join(capsys.readouterr())

    return run


def printed(said: str) -> Any:
    """The JSON of a command, which stands before what it wrote to standard error."""
    return json.loads(said.partition("\n")[0])


def lines(run: str) -> list[dict[str, object]]:
    """The training lines of a run, without those that hold time."""
    found = map(json.loads, Path(run, "metrics.jsonl").read_text().splitlines())
    timed = ("seconds", "tokens_per_second", "mfu")
    return [{key: value for key, value in line.items() if key not in timed} for line in found if "loss" in line]


@pytest.mark.slow
def test_one_file_of_every_kind_is_used(outside: list[str], call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    code, said = call("blocks", "--all", "--json", *outside)
    assert code == 0, said
    listed = printed(said)["blocks"]
    mine = {row["kind"]: row["name"] for row in listed if row["owner"].endswith(f"mine/{row['name']}.py")}
    assert mine.keys() == {str(kind) for kind in every_kind()}, "one of every kind"
    assert sorted(mine.values()) == sorted(EXAMPLES)

    assert call("train", "r.yaml", "--run", "whole", *outside)[0] == 0
    whole = lines("whole")
    assert [line["window"] for line in whole] == [2, 4, 2, 4]
    assert [line["steps"] for line in whole] == [11, 12, 13, 14]
    assert [line["lr"] for line in whole] == pytest.approx([1e-2 * (1 - step / 3) ** 2 for step in range(4)])
    assert Path("whole/metrics.tsv").read_text().count("train/loss") == 4
    manifest = Run(Path("whole")).record()
    assert manifest and manifest.entries == {"counted_from": 10}
    assert (manifest.engine, manifest.optimizer) == ("counting", "heavy")
    kept = {path.name for path in Path("whole/plugins").iterdir()}
    assert {f"{name}.py" for name in TRAINING} == kept == set(manifest.code or ()), "and no others"

    words = ("--needles", "parrot", "--lengths", "600", "--samples", "2", "--score", "forced", "--no-perplexity")
    code, said = call("eval", "whole", *words, "--json", *outside)
    assert code == 0, said
    assert [(cell["task"], cell["samples"]) for cell in printed(said)["cells"]] == [("parrot (forced)", 2)]

    assert call("train", "r.yaml", "--run", "llama", *LLAMA, *outside)[0] == 0
    assert call("export", "llama", "exported", "--format", "nano", *outside)[0] == 0
    names = read_tensors(Path("exported/model.safetensors")).keys()
    assert {"wte.weight", "h.0.self_attn.q_proj.weight", "ln_f.weight"} <= names
    code, said = call("import", "exported", "--run", "back", *outside)
    assert code == 0, said
    before, after = (
        read_tensors(Run(run).newest().checkpoint.folder / "model.safetensors") for run in ("llama", "back")
    )
    assert before.keys() == after.keys() and all((before[name] == after[name]).all() for name in before)

    from hybridkit.search.definition import read_definition
    from hybridkit.search.pruner import choose_pruner
    from hybridkit.search.study import create

    study = create(read_definition(Path("s.yaml")), Path("study"), None)
    pruner = choose_pruner(study.definition.file.pruner)
    assert pruner.rungs(0, 8) == [4] and pruner.stops(2.0, [1.0]) and not pruner.stops(1.0, [2.0])
    trials = try_all(study, lambda trial: trial.params["model.width"])
    assert [trial.params["model.width"] for trial in trials] == [24, 16], "from the last on, two of them"


@pytest.mark.slow
def test_a_run_goes_on_with_its_own_copies(outside: list[str], call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("train", "r.yaml", "--run", "whole", *outside)[0] == 0
    words = ("train.steps=4", "train.lr=1e-2")
    assert call("train", "r.yaml", "train.until={metric: val_loss, at_most: 99}", "train.validate_every=2",
                "--run", "part", *outside)[0] == 0  # fmt: skip
    new_process(monkeypatch)
    code, said = call("train", "part/recipe.yaml", "train.until=null", *words, "--run", "part", "--resume")
    assert code == 0, said
    assert [line["loss"] for line in lines("part")] == [line["loss"] for line in lines("whole")]
    assert [line["steps"] for line in lines("part")] == [11, 12, 11, 12], "the engine counts from anew"
    assert Path("part/metrics.tsv").read_text().count("train/loss") == 4


def test_copies_of_every_kind_need_trust(outside: list[str], call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("train", "r.yaml", "train.steps=1", "pattern=sa", "--run", "run", *outside)[0] == 0
    new_process(monkeypatch)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(Path("another").absolute()))
    code, said = call("train", "run/recipe.yaml", "train.steps=2", "--run", "run", "--resume")
    assert code == 2 and "not trusted" in said and "heavy.py" in said and "counting.py" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train.optimizer={name: heavy, momentum: 2}"], "train.optimizer.momentum should be less than 1, not 2"),
        (
            ["train.optimizer={name: heavy, momentun: .5}"],
            'train.optimizer has no "momentun"; did you mean "momentum"?',
        ),
        (["train.firts=3"], 'train has no "firts"; did you mean "first"?'),
        (["train.first=-1"], "train.first should be greater than or equal to 0, not -1"),
        (["train.optimizer=havy"], "did you mean heavy?"),
        (["train.optimizer=counting"], "train.optimizer should name an optimizer (adamw, heavy"),
        (["train.engine=decay"], "train.engine should name an engine (counting, deepspeed, local"),
        (["--ranks", "2"], "train.engine: counting is one process; set train.engine=deepspeed"),
        (["train.engine=local", "pattern=heavy"], "unknown block `heavy`"),
    ],
)
def test_a_slip_is_told_with_what_plug_ins_declare(outside: list[str], call: Call, words: list[str], said: str) -> None:
    code, printed = call("train", "r.yaml", "--run", "run", *words, *outside)
    assert code == 2 and said in " ".join(printed.split()) and not Path("run").exists()


def test_the_state_of_another_optimizer_is_refused(outside: list[str], call: Call) -> None:
    assert call("train", "r.yaml", "train.steps=1", "--run", "run", *outside)[0] == 0
    code, said = call("train", "r.yaml", "train.optimizer=adamw", "--run", "run", "--resume", *outside)
    assert code == 2 and "it uses the plug-in heavy.py" in " ".join(said.split())
