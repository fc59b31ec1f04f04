"""The verb `generate`, called as the command line calls it, with good and bad input."""

import json
import sys
from pathlib import Path

import pytest
import torch
import typer
from tiny import tiny
from typer.testing import CliRunner, Result

from hybridkit.cli import main
from hybridkit.cli.generate import generate
from hybridkit.data.tokenizer import ByteTokenizer
from hybridkit.model.model import Model
from hybridkit.system.errors import Failure, UserError

PROMPT = "the quick brown fox"


@pytest.fixture(scope="module")
def model() -> Model:
    model = tiny("[swa:8, mlstm]", torch.float32)
    model.tokenizer = ByteTokenizer()
    return model


@pytest.fixture(autouse=True)
def run_folder(monkeypatch: pytest.MonkeyPatch, model: Model) -> None:
    monkeypatch.setattr("hybridkit.model.loading.load_model", lambda *given: model, raising=False)


def call(*arguments: str, stdin: bytes = b"") -> Result:
    app = typer.Typer()
    app.command()(generate)
    return CliRunner().invoke(app, ["runs/x", *arguments], input=stdin)


def replies(*arguments: str) -> list[str]:
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return [reply["text"] for reply in json.loads(result.stdout)["replies"]]


def test_the_verb_streams_what_the_model_generates(model: Model) -> None:
    ids = torch.cat(list(model.generate(model.prefill(PROMPT), max_tokens=12, temperature=0)))
    result = call(PROMPT, "--tokens", "12", "--temperature", "0", "--stats")
    assert result.stdout == model.tokenizer.decode(ids).decode(errors="replace") + "\n"
    assert "19 tokens" in result.stderr and "bytes" in result.stderr


def test_prompts_of_a_batch_reply_as_alone(tmp_path: Path) -> None:
    (tmp_path / "prompt").write_text("from a file\n")
    options = ["--tokens", "12", "--top-k", "50", "--top-p", ".95", "--min-p", ".01", "--temperature", ".8"]
    batch = replies("a", "second one", "--file", str(tmp_path / "prompt"), "--seed", "5", *options)
    alone = [
        replies(text, "--seed", str(5 + row), *options) for row, text in enumerate(("a", "second one", "from a file\n"))
    ]
    assert [batch] == [[text for row in alone for text in row]]
    assert call("a", "b", *options).stdout.splitlines()[0] == "--- 0"


def test_a_document_read_once_is_asked_many_times(tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    assert call("a long document. ", "--save-state", state, "--tokens", "0").exit_code == 0
    asked = replies("one?", "another?", "--load-state", state, "--tokens", "9")
    whole = [
        replies(f"a long document. {question}", "--seed", str(row), "--tokens", "9")[0]
        for row, question in enumerate(("one?", "another?"))
    ]
    assert asked == whole
    assert replies("--load-state", state, "--tokens", "9") == replies("a long document. ", "--tokens", "9")


def test_json_says_how_much_and_how_fast() -> None:
    result = call(PROMPT, "--json", "--tokens", "8", "--stop", "\x00\x00")
    said = json.loads(result.stdout)
    assert said["prompt_tokens"] == 19 and said["state_bytes"] > 0
    assert said["prefill_tokens_per_second"] > 0 and said["decode_tokens_per_second"] > 0
    assert said["replies"][0]["ending"] in ("tokens", "end") and said["tokens"] == said["replies"][0]["tokens"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no prompt"),
        ([""], "empty"),
        (["ok", ""], "empty"),
        (["x", "--temperature", "-1"], "temperature"),
        (["x", "--temperature", "nan"], "temperature"),
        (["x", "--top-p", "1.5"], "top-p"),
        (["x", "--min-p", "0"], "min-p"),
        (["x", "--top-k", "0"], "top-k"),
        (["x", "--seed", "-1"], "seed"),
        (["x", "--window", str(10**20)], "window"),
        (["x", "--stop", ""], "stop string"),
        (["--file", "/nowhere/at/all"], "cannot read"),
        (["--file", "/"], "cannot read"),
        (["--file", "-"], "standard input is empty"),
        (["x", "--load-state", "/nowhere/at/all"], "not a file"),
        (["x", "--save-state", "/nowhere/at/all"], "no folder"),
        (["x", "--save-state", "/"], "--save-state /: a folder; name a file"),
        (["x", "--save-state", "/proc/x"], "--save-state /proc/x: it cannot be written"),
        (["x", "y", "--save-state", "s"], "one prompt"),
        (["--load-state", __file__, "--window", "3"], "--window"),
    ],
)
def test_bad_input_is_refused(arguments: list[str], message: str) -> None:
    error = call(*arguments).exception
    assert isinstance(error, UserError) and message in str(error)


def test_a_closed_standard_input_is_no_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match="standard input is closed; give a prompt or --file F"):
        generate(Path("runs/x"), file=[Path("-")])


def test_a_current_folder_that_was_deleted_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr(sys, "argv", ["hybridkit", "generate", "runs/x", "a prompt"])
    monkeypatch.setattr("hybridkit.cli.collect_no_more", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main()
    said = "hybridkit: the current folder no longer exists; change to one that does\n"
    assert ended.value.code == 2 and capsys.readouterr() == ("", said)


def test_a_file_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridkit.cli.generate._MOST", 100)
    error = call("--file", "/dev/zero").exception
    assert isinstance(error, UserError) and "the most that a prompt may have" in str(error)


@pytest.mark.parametrize("option", [["--tokens", "-1"], ["--window", "0"], ["--chunk", "0"], ["--top-k", "x"]])
def test_options_out_of_range_exit_with_2(option: list[str]) -> None:
    assert call("x", *option).exit_code == 2


def test_any_number_of_tokens_can_be_asked_for(model: Model) -> None:
    first = next(iter(model.generate(model.prefill(PROMPT), max_tokens=10**20, temperature=0)))
    text = model.tokenizer.decode(first).decode(errors="replace")
    assert replies(PROMPT, "--tokens", str(10**20), "--temperature", "0", "--stop", text) == [""]


def test_a_prompt_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes("é".encode("latin-1"))
    for result in (call("--file", str(tmp_path / "latin")), call("--file", "-", stdin=b"ok \xff"), call("ok \udcff")):
        assert isinstance(result.exception, UserError) and "not UTF-8" in str(result.exception)


def test_a_window_larger_than_the_states_own_is_refused(tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    call(PROMPT, "--save-state", state, "--tokens", "0", "--window", "6")
    assert replies("x", "--load-state", state, "--window", "5", "--tokens", "1")
    error = call("x", "--load-state", state, "--window", "7").exception
    assert isinstance(error, UserError) and "larger" in str(error)


def test_a_window_for_a_model_without_windows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = tiny("mlstm")
    other.tokenizer = ByteTokenizer()
    monkeypatch.setattr("hybridkit.model.loading.load_model", lambda *given: other, raising=False)
    error = call("x", "--window", "7").exception
    assert isinstance(error, UserError) and "no block" in str(error)


def test_precision_casts_the_weights(monkeypatch: pytest.MonkeyPatch, model: Model) -> None:
    own = tiny("[swa:8, mlstm]", torch.float32)
    own.load_state_dict(model.state_dict())
    own.tokenizer = ByteTokenizer()
    monkeypatch.setattr("hybridkit.model.loading.load_model", lambda *given: own)
    assert call(PROMPT, "--tokens", "3", "--precision", "bf16").exit_code == 0
    assert {weight.dtype for weight in own.parameters()} == {torch.bfloat16}
    assert call(PROMPT, "--precision", "fp8").exit_code == 2


def test_out_of_memory_names_lighter_settings(monkeypatch: pytest.MonkeyPatch, model: Model) -> None:
    def full(*given: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(model, "hidden", full)
    error = call(PROMPT, "--chunk", "512").exception
    assert isinstance(error, Failure) and "--chunk 256" in str(error) and "--precision bf16" in str(error)
