"""The command line as a user meets it: exit codes, one message, no traceback, the files of a run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import hybridkit, hybridkit_process
from fences import fences
from plugins import new_process

TINY = """
pattern: [swa:stoch(4,8), mlstm]
model: {width: 16, heads: 2}
data: {source: text.txt, sequence: 16}
train: {steps: 4, batch_tokens: 64, warmup: 0, validate_every: 2, checkpoint_every: 2, precision: fp32}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a tiny recipe, its text, and the run that it trained."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "tiny.yaml").write_text(TINY)
    (folder / "text.txt").write_text("def square(x):\n    return x * x\n" * 40)
    done = hybridkit("train", "tiny.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_version_and_the_whole_summaries_of_verbs(tmp_path: Path) -> None:
    from hybridkit import __version__

    assert hybridkit("--version", cwd=tmp_path).stdout == f"hybridkit {__version__}\n"
    said = hybridkit("--help", cwd=tmp_path).stdout
    cut = [line for line in said.splitlines() if line.endswith("...") and "[ARGS]..." not in line]
    assert not cut and "--install-completion" in said
    assert "Measure what runs remember: perplexity, loss by position, needles" in " ".join(said.split())


def test_one_line_becomes_a_run_folder(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "runs/tiny/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if "val_loss" in line] == [2, 4]
    wanted = {"step", "loss", "lr", "grad_norm", "window", "tokens", "seconds", "tokens_per_second", "mfu"}
    assert wanted <= set(lines[0]) and lines[0]["window"] in (4, 8)
    assert (run / "runs/tiny/checkpoints/step-4/model.safetensors").is_file()


def test_the_design_s_one_line_recipe_is_complete(tmp_path: Path) -> None:
    (tmp_path / "swax.yaml").write_text("pattern: [swa:stoch(128,2048,p=.5), mlstm]*12\n")
    shown = json.loads(hybridkit("show", "swax.yaml", "--json", cwd=tmp_path).stdout)
    assert shown["pattern"] == "[swa:stoch(128,2048), mlstm]*12" and shown["mixers"] == 24
    assert shown["params"]["total"] == sum(shown["params"][part] for part in ("embedding", "head", "body"))


def test_a_finished_run_is_resumed_shown_generated_from_and_exported(run: Path) -> None:
    again = hybridkit("train", "tiny.yaml", "--resume", cwd=run)
    assert again.returncode == 0 and "finished" in again.stdout
    curves = json.loads(hybridkit("show", "runs/tiny", "--json", "--plot", "c.png", cwd=run).stdout)
    assert curves["runs"][0]["step"] == 4 and (run / "c.png").stat().st_size > 0
    said = hybridkit("generate", "runs/tiny", "def ", "--tokens", "5", cwd=run)
    assert said.returncode == 0 and said.stdout
    assert hybridkit("export", "runs/tiny", "out", cwd=run).returncode == 0
    config = json.loads((run / "out/config.json").read_text())
    assert config["hybridkit"]["pattern"] == "[swa:stoch(4,8), mlstm]" and len(config["stack"]) == 4


@pytest.mark.slow
def test_a_report_is_a_page_beside_the_run(run: Path) -> None:
    done = hybridkit("report", "runs/tiny", "--prompt", "def ", "--json", cwd=run)
    assert done.returncode == 0 and json.loads(done.stdout) == {"pages": ["runs/tiny/report.html"]}, done.stderr
    page = (run / "runs/tiny/report.html").read_text("utf-8")
    assert "[swa:stoch(4,8), mlstm]" in page and "<pre><b>def </b>" in page
    wrong = {"nothing": "no such run folder", "runs/tiny --out x.txt": ".html", "runs/tiny --storage x": "a study"}
    for words, said in wrong.items():
        done = hybridkit("report", *words.split(), cwd=run)
        assert done.returncode == 2 and said in done.stderr and not done.stdout


def test_a_plugin_is_as_good_as_a_shipped_block(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "decay.py").write_text(fences("docs/blocks.md", "python")[0])
    words = ["tiny.yaml", "pattern=[decay, swa:8]", "train.steps=2"]
    new_process(monkeypatch)
    done = hybridkit("train", *words, "--plugin", "decay.py", "--run", "runs/decay", cwd=run)
    assert done.returncode == 0, done.stderr
    new_process(monkeypatch)
    done = hybridkit("generate", "runs/decay", "x", "--tokens", "2", "--plugin", "decay.py", cwd=run)
    assert done.returncode == 0, done.stderr
    new_process(monkeypatch)


@pytest.mark.slow
def test_a_process_says_the_same_with_the_same_exit_code(run: Path) -> None:
    (run / "bad.yaml").write_text("pattern: [swa:8, mlstn]*2")
    here, there = (call("show", "bad.yaml", cwd=run) for call in (hybridkit, hybridkit_process))
    assert (here.returncode, here.stdout, here.stderr) == (there.returncode, there.stdout, there.stderr)


@pytest.mark.parametrize("verb", ["blocks", "doctor"])
def test_json_is_one_object_and_nothing_else(verb: str, tmp_path: Path) -> None:
    found = json.loads(hybridkit(verb, "--json", cwd=tmp_path).stdout)
    assert {"mlstm", "swa"} <= ({row["name"] for row in found["blocks"]} if verb == "blocks" else set(found["kernels"]))


BAD = {
    "an unknown block": (["show", "b.yaml"], "pattern: [swa:8, mlstn]*2", "b.yaml:1:18", "mlstm"),
    "an open bracket": (["show", "b.yaml"], "pattern: [swa:8, mlstm*2", "b.yaml:1:25", "not closed"),
    "swa without a window": (["show", "b.yaml"], "pattern: [swa, mlstm]", "b.yaml:1:11", "swa:128"),
    "a window for mlstm": (["show", "b.yaml"], "pattern: mlstm:128", "b.yaml:1", "no window"),
    "p over 1": (["show", "b.yaml"], "pattern: swa:stoch(8,16,p=1.5)", "b.yaml:1", "p"),
    "window 0": (["show", "b.yaml"], "pattern: swa:0", "b.yaml:1:14", "1"),
    "an unknown key": (["show", "b.yaml"], "pattern: sa\ntrian: {}", "b.yaml:2:1", "train"),
    "heads that do not divide": (
        ["show", "b.yaml"],
        "pattern: sa\nmodel: {width: 100, heads: 3}",
        "b.yaml:1",
        "3 heads",
    ),
    "an empty corpus": (["train", "b.yaml"], "pattern: sa\ndata: {source: none.txt}", "data.source", "empty"),
    "a short corpus": (["train", "b.yaml"], "pattern: sa\ndata: {source: short.txt}", "data.sequence", "at most"),
    "no such corpus": (["train", "b.yaml"], "pattern: sa\ndata: {source: no.txt}", "data.source", "no.txt"),
    "no such recipe": (["show", "c.yaml"], "", "c.yaml", "no such file"),
    "a folder": (["show", "folder"], "", "folder", "directory"),
    "junk": (["show", "junk.yaml"], "", "junk.yaml", "binary"),
    "a megabyte of brackets": (["show", "big.yaml"], "", "big.yaml:1", "64 KiB"),
    "a bad override": (["show", "b.yaml", "train.lr=fast"], "pattern: sa", "train.lr", "number"),
    "no run": (["generate", "nothing", "x"], "", "nothing", "run"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_message_and_exit_code_2(case: str, tmp_path: Path) -> None:
    words, recipe, *said = BAD[case]
    (tmp_path / "b.yaml").write_text(recipe)
    (tmp_path / "none.txt").touch()
    (tmp_path / "short.txt").write_text("hello world\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "junk.yaml").write_bytes(bytes(range(128, 256)) * 9)
    (tmp_path / "big.yaml").write_text("pattern: " + "[" * 10**6)
    done = hybridkit(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("hybridkit: ") == 1 and "Traceback" not in done.stderr
    assert all(part in done.stderr for part in said), done.stderr


def test_mistakes_in_a_recipe_do_not_wait_for_torch(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("pattern: [swa:8, mlstn]\n")
    code = """
import sys
from hybridkit.cli import main
for words in (["--help"], ["--version"], ["show", "b.yaml"], ["train", "b.yaml", "x=3"], ["flops", "nope"]):
    sys.argv = ["hybridkit", *words]
    try:
        main()
    except SystemExit:
        pass
    assert words[0][0] != "-" or not {"pydantic", "lark", "yaml", "rich"} & sys.modules.keys()
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=tmp_path).returncode == 0
