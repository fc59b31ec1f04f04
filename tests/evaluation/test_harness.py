"""lm-evaluation-harness through the adapter: log-likelihoods, greedy text, tasks offline, its own RULER."""

import importlib.util
import json
import math
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from scripted import Scripted
from tiny import tiny
from torch.nn import functional as F

from hybridkit.data.tokenizer import ByteTokenizer
from hybridkit.evaluation.scoring import ReadOptions
from hybridkit.model.model import Model
from hybridkit.system.errors import UserError

pytest.importorskip("lm_eval", reason="needs the harness extra")
pytestmark = [
    pytest.mark.slow,  # the harness takes seconds to import
    pytest.mark.filterwarnings("ignore"),  # the harness and what it imports warn of themselves
]

TASK = """\
task: letters
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["a", "bb", "c d"]
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""


@pytest.fixture(scope="module")
def harness() -> Iterator[SimpleNamespace]:
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setenv("HF_HUB_OFFLINE", "1")
        from hybridkit.evaluation import harness

        yield harness


@pytest.fixture(scope="module")
def model() -> Model:
    model = tiny("[swa:8, mlstm]", torch.float32).eval()
    model.tokenizer = ByteTokenizer()
    return model


def asked(*arguments: object) -> SimpleNamespace:
    return SimpleNamespace(args=arguments)


def nats(model: Model, read: str, rest: str) -> tuple[float, bool]:
    ids = torch.tensor([[256, *(read + rest).encode()] if not read else [*(read + rest).encode()]])
    logits = model(ids[:, :-1])[0][0, -len(rest) :]
    wanted = ids[0, -len(rest) :]
    return -F.cross_entropy(logits, wanted, reduction="sum").item(), bool((logits.argmax(-1) == wanted).all())


def test_log_likelihoods_are_those_of_the_model(harness: SimpleNamespace, model: Model) -> None:
    adapter = harness.Adapter(model, ReadOptions(batch=2, chunk=9))
    pairs = [("a question? ", "an answer"), ("x", "y"), ("", "no context"), ("long " * 20, "z")]
    found = adapter.loglikelihood([asked(*pair) for pair in pairs], disable_tqdm=True)
    for (read, rest), (likelihood, greedy) in zip(pairs, found, strict=True):
        expected = nats(model, read.rstrip(), " " * (len(read) - len(read.rstrip())) + rest)
        assert (likelihood, greedy) == (pytest.approx(expected[0], rel=1e-5), expected[1])
    rolling = adapter.loglikelihood_rolling([asked("some text"), asked("other")])
    assert rolling == [pytest.approx(nats(model, "", text)[0], rel=1e-5) for text in ("some text", "other")]


ROLLING = """\
task: texts
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: bits_per_byte}}]
"""


def test_an_empty_text_is_certain_and_changes_no_other(harness: SimpleNamespace, model: Model) -> None:
    adapter = harness.Adapter(model, ReadOptions(batch=2))
    texts = ["some text", "", "other", ""]
    rolling = adapter.loglikelihood_rolling([asked(text) for text in texts])
    assert rolling == [pytest.approx(nats(model, "", text)[0], rel=1e-5) if text else 0 for text in texts]
    assert adapter.loglikelihood_rolling([asked("")]) == [0.0]
    pairs = [("", ""), ("x", ""), ("", "y"), (" ", "y"), ("x", "y")]
    found = adapter.loglikelihood([asked(*pair) for pair in pairs], disable_tqdm=True)
    wanted = [0, 0, nats(model, "", "y")[0], nats(model, "", " y")[0], nats(model, "x", "y")[0]]
    assert [likelihood for likelihood, _ in found] == pytest.approx(wanted, rel=1e-5)
    assert adapter.generate_until([asked("", {"max_gen_toks": 2})]) == adapter.generate_until(
        [asked("", {"max_gen_toks": 2})]
    )


def test_a_task_with_an_empty_document(harness: SimpleNamespace, model: Model, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in ("", "some text")))
    (tmp_path / "texts.yaml").write_text(ROLLING.format(file=tmp_path / "rows.jsonl"))
    found = harness.run_harness(model, ["texts"], ReadOptions(), include=tmp_path)
    bits = -nats(model, "", "some text")[0] / math.log(2) / len("some text")
    assert found["texts"]["bits_per_byte,none"] == pytest.approx(bits, rel=1e-5)
    with pytest.raises(UserError, match="no document that was asked holds any text"):
        harness.run_harness(model, ["texts"], ReadOptions(), include=tmp_path, limit=1)


def test_greedy_text_is_what_the_model_generates(harness: SimpleNamespace, model: Model) -> None:
    adapter = harness.Adapter(model, ReadOptions(batch=2))
    texts = ["one", "another", "a third"]
    settings: list[dict[str, object]] = [{"max_gen_toks": 9}, {"max_gen_toks": 5, "until": ["\n"]}, {"max_gen_toks": 9}]
    found = adapter.generate_until([asked(*pair) for pair in zip(texts, settings, strict=True)])
    for text, setting, written in zip(texts, settings, found, strict=True):
        context = model.prefill(text)
        ids = torch.cat(list(model.generate(context, max_tokens=setting["max_gen_toks"], temperature=0))).tolist()
        whole = model.tokenizer.decode(ids[: ids.index(256)] if 256 in ids else ids).decode(errors="replace")
        assert written == whole.split("\n")[0] if "until" in setting else whole


def test_sampled_repeats_differ_and_repeat_themselves(harness: SimpleNamespace, model: Model) -> None:
    adapter = harness.Adapter(model, ReadOptions(batch=2))
    requests = [asked("x", {"do_sample": True, "temperature": 1.0, "max_gen_toks": 12})] * 4
    found = adapter.generate_until(requests)
    assert len(set(found)) == 4 and found == adapter.generate_until(requests)


def test_a_task_of_local_files(harness: SimpleNamespace, model: Model, tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [{"question": f"Question {n}: ", "answer": rng.randrange(3)} for n in range(6)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "letters.yaml").write_text(TASK.format(file=tmp_path / "rows.jsonl"))
    choices = [" a", " bb", " c d"]
    best = [
        max(range(3), key=lambda n, q=row["question"]: nats(model, q.rstrip(), " " + choices[n])[0]) for row in rows
    ]
    found = harness.run_harness(model, ["letters"], ReadOptions(), include=tmp_path)
    right = sum(guess == row["answer"] for guess, row in zip(best, rows, strict=True))
    assert found["letters"]["acc,none"] == pytest.approx(right / 6)
    with pytest.raises(UserError, match="did you mean `letters`"):
        harness.run_harness(model, ["leters"], ReadOptions(), include=tmp_path)


@pytest.mark.parametrize("task", ["niah_single_1", "niah_multikey_2"])
def test_the_harness_ruler_gives_a_scripted_model_the_same_score(
    task: str, harness: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 samples of which 7 are answered right: the share is the score, as test_needles finds with ours."""
    nltk, wonderwords = pytest.importorskip("nltk"), pytest.importorskip("wonderwords")
    lists = {kind: words[::2] for kind, words in wonderwords.RandomWord()._categories.items()}
    monkeypatch.setattr(nltk.data, "find", lambda name: name)
    monkeypatch.setattr(wonderwords, "RandomWord", lambda: SimpleNamespace(_categories=lists))
    folder = Path(importlib.util.find_spec("lm_eval.tasks.ruler").submodule_search_locations[0])
    found = harness.run_harness(Scripted(7), [task], ReadOptions(batch=20), include=folder, lengths=[4096], limit=20)
    assert found[task]["4096,none"] == pytest.approx(7 / 20)


GENERATED = """\
task: words
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{text}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 12, do_sample: true, temperature: 1.5}}
metric_list: [{{metric: chrf, aggregation: chrf, higher_is_better: true}}]
"""


def written(tmp_path: Path, text: str) -> Path:
    rows = [{"question": f"Question {n}: ", "answer": f"number {n} is it"} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "words.yaml").write_text(GENERATED.format(file=tmp_path / "rows.jsonl", text=text))
    return tmp_path


def test_no_process_is_forked_and_the_seed_decides_what_is_sampled(
    harness: SimpleNamespace, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(tmp_path, "{{question}}")
    monkeypatch.setattr("multiprocessing.Pool", lambda *_: pytest.fail("the harness forked"))
    found = [harness.run_harness(model, ["words"], ReadOptions(), include=folder, seed=seed) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2] and "chrf_stderr,none" in found[0]["words"]


def test_a_mistake_in_a_task_file_is_a_message(harness: SimpleNamespace, model: Model, tmp_path: Path) -> None:
    folder = written(tmp_path, "{{ question | nosuchfilter }}")
    with pytest.raises(UserError, match=r"--tasks words: TemplateAssertionError: .*nosuchfilter"):
        harness.run_harness(model, ["words"], ReadOptions(), include=folder)
    broken = SimpleNamespace(tokenizer=ByteTokenizer())
    with pytest.raises(AttributeError):  # an error of the model is no mistake of the file
        harness.run_harness(broken, ["words"], ReadOptions(), include=written(tmp_path, "{{question}}"))


def test_without_a_network_a_task_of_the_hub_is_answered_at_once(
    harness: SimpleNamespace, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere(*_: object) -> None:
        raise OSError("no such name")

    for module in (harness.datasets.config, harness.constants):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("hybridkit.system.network.getproxies", dict)
    monkeypatch.setattr("socket.getaddrinfo", nowhere)
    file = written(tmp_path, "{{question}}") / "words.yaml"
    said = file.read_text().replace("dataset_path: json", "dataset_path: nobody/nothing")
    file.write_text("".join(line for line in said.splitlines(keepends=True) if "dataset_kwargs" not in line))
    with pytest.raises(UserError, match=r"--tasks words: huggingface\.co has no address here"):
        harness.run_harness(model, ["words"], ReadOptions(), include=tmp_path)
