"""Running needles: known shares of right answers come out as they are, batches and kills change nothing."""

import json
from pathlib import Path

import pytest
import torch
from scripted import Scripted
from tiny import tiny

from hybridkit.data.tokenizer import ByteTokenizer
from hybridkit.evaluation.haystack import open_essays
from hybridkit.evaluation.needles import answer_forced, answer_generated, beyond, read_lines, run_cell
from hybridkit.evaluation.runner import by_depth
from hybridkit.evaluation.samples import Samples
from hybridkit.evaluation.scoring import ReadOptions
from hybridkit.evaluation.task import Prompt
from hybridkit.model.model import Model


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HYBRIDKIT_CACHE", str(tmp_path / "cache"))


def samples(task: str = "niah_single_1", length: int = 700, count: int = 100) -> Samples:
    made = Samples(task, length, 42, ByteTokenizer(), "bytes", open_essays())
    list(made.prepare(count))
    return made


@pytest.fixture(scope="module")
def model() -> Model:
    model = tiny("[swa:8, mlstm]", torch.float32).eval()
    model.tokenizer = ByteTokenizer()
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "right"), [("niah_single_1", 0), ("niah_single_1", 37), ("niah_single_1", 100), ("niah_multikey_2", 37)]
)
def test_a_known_share_of_right_answers_is_the_score(task: str, right: int, tmp_path: Path) -> None:
    lines = list(run_cell(Scripted(right), samples(task), 100, "ruler", ReadOptions(batch=7), tmp_path / "cell"))
    assert sum(line["score"] for line in lines) == right
    assert [line["score"] for line in lines] == [float(all(line["found"])) for line in lines]
    bins = by_depth([line | {"unseen": [n % 2 == 0] * len(line["found"])} for n, line in enumerate(lines)])
    assert [sum(column) for column in zip(*bins, strict=True)][1:] == [100, right, 50]


def test_a_line_says_what_ruler_says(tmp_path: Path) -> None:
    made = samples(count=2)
    list(run_cell(Scripted(100), made, 2, "ruler", ReadOptions(), tmp_path / "cell"))
    first = json.loads((tmp_path / "cell").read_text().splitlines()[0])
    prompt = made[0].prompt
    assert first["input"] == prompt.input and first["answer_prefix"] == prompt.answer_prefix
    assert first["outputs"] == list(prompt.outputs) and first["depths"] == list(prompt.depths)
    assert first["prediction"] == f"{prompt.outputs[0]}." and first["length"] == 700
    assert first["tokens"] == len(prompt.text.encode()) <= 700 - 128


def test_an_output_lies_beyond_the_reach_where_no_token_of_it_is_among_the_last() -> None:
    """23 bytes follow; one more than that is needed to touch it, and a token is left for cuts in another place."""
    prompt = Prompt("x" * 10 + "NEEDLE" + "y" * 20, " is", ("NEEDLE", "absent"), (0.0, 0.0))
    assert beyond(prompt, 22, ByteTokenizer()) == [True, False]
    assert beyond(prompt, 24, ByteTokenizer()) == [False, False]


def test_batches_answer_as_single_prompts_do(model: Model) -> None:
    """Rows differ in length: what pads them must not be seen."""
    prompts = [samples(task, 700, 2)[n].prompt for task in ("niah_single_1", "niah_multikey_2") for n in (0, 1)]
    for ask in (answer_generated, answer_forced):
        together = ask(model, prompts, ReadOptions(batch=4, chunk=100))
        alone = [ask(model, [prompt], ReadOptions())[0] for prompt in prompts]
        for one, other in zip(together, alone, strict=True):
            assert one.prediction == other.prediction and one.found == other.found
            assert one.nats == (None if other.nats is None else pytest.approx(other.nats, rel=1e-4))


@pytest.mark.slow
def test_forcing_asks_whether_every_token_of_an_output_is_the_likeliest() -> None:
    """The scripted model is sure of the next byte only where it reads last: fed in single tokens, it is right."""
    prompts = [samples(count=2)[n].prompt for n in (0, 1)]
    right = answer_forced(Scripted(100), prompts, ReadOptions(chunk=1))
    wrong = answer_forced(Scripted(0), prompts, ReadOptions(chunk=1))
    assert [said.score for said in right] == [1, 1] and [said.score for said in wrong] == [0, 0]
    assert all(a.nats < b.nats for a, b in zip(right, wrong, strict=True))


@pytest.mark.parametrize("damage", [b"", b'{"index": 1', b'{"index": 1, "score": 1.0}', b"\xff\n", b'{"index": 7}\n',
    *(b'{"index": 1, "score": %b, "found": %b, "depths": %b}\n' % said for said in (
        (b"2.0", b"[true]", b"[3]"), (b"1.0", b"[false]", b"[3]"), (b"1.0", b"[true]", b"[101]"),
        (b"1.0", b"[]", b"[]"),
        (b"1.0", b"[true]", b"[3, 4]"), (b"1.0", b"3", b"[3]"), (b"1.0", b"[true]", b'["3"]'), (b"1.0", b"[2]", b"[3]"),
    )),
])  # fmt: skip
def test_a_killed_evaluation_goes_on_where_it_was(damage: bytes, tmp_path: Path) -> None:
    file, made = tmp_path / "cell", samples(count=6)
    whole = list(run_cell(Scripted(37), made, 6, "ruler", ReadOptions(batch=2), tmp_path / "whole"))
    stopped = run_cell(Scripted(37), made, 6, "ruler", ReadOptions(batch=2), file)
    next(stopped)
    stopped.close()
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) == 2
    file.write_bytes(lines[0] + damage)
    assert len(read_lines(file)) == 1
    model = Scripted(37)
    resumed = list(run_cell(model, made, 6, "ruler", ReadOptions(batch=2), file))
    assert len(model.asked) == 5 and (tmp_path / "whole").read_bytes() == file.read_bytes()
    assert json.loads(json.dumps(resumed)) == json.loads(json.dumps(whole))
