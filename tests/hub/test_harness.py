"""lm-eval's own `hf` model on an exported folder gives the scores of our adapter on the run, task for task."""

import json
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from checkpoint import run_of

import hybridkit
from hybridkit.evaluation.scoring import ReadOptions
from hybridkit.hub.export import export_run

pytest.importorskip("lm_eval", reason="needs the harness extra")
pytest.importorskip("accelerate", reason="the hf model of lm-eval needs accelerate")
pytest.importorskip("transformers", reason="needs the hf extra")
pytestmark = [
    pytest.mark.slow,  # the harness takes seconds to import
    pytest.mark.filterwarnings("ignore"),  # the harness and what it imports warn of themselves
]

HEAD = "dataset_path: json\ndataset_kwargs: {{data_files: {{test: {file}}}}}\ntest_split: test\n"
TASKS = {
    "letters": 'output_type: multiple_choice\ndoc_to_text: "{{{{question}}}}"\ndoc_to_choice: ["a", "bb", "c d"]\n'
    "doc_to_target: answer\nmetric_list: [{{metric: acc}}, {{metric: acc_norm}}]\n",
    "texts": 'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{{{question}}}}"\n'
    "metric_list: [{{metric: bits_per_byte}}, {{metric: word_perplexity}}]\n",
    "written": 'output_type: generate_until\ndoc_to_text: "{{{{question}}}}"\ndoc_to_target: "{{{{reply}}}}"\n'
    "generation_kwargs: {{max_gen_toks: 4, until: []}}\nmetric_list: [{{metric: exact_match}}]\n",
}


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SimpleNamespace]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from hybridkit.evaluation import harness

        yield harness


@pytest.mark.parametrize(("pattern", "family"), [("[swa:8, mlstm]", "remote"), ("sa(kv_heads=2)*2", "llama")])
def test_scores_are_the_same(pattern: str, family: str, harness: SimpleNamespace, tmp_path: Path) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    run = run_of(pattern, tmp_path / "run")
    assert export_run(run, tmp_path / "out").family == family
    model, rng = hybridkit.load(run), random.Random(0)
    rows = []
    for number in range(6):
        question = f"Question {number}: "
        ids = [int(one) for one in model.generate(model.prefill(question.rstrip()), max_tokens=4, temperature=0)]
        reply = model.tokenizer.decode(ids).decode(errors="replace") if number % 2 else "never"
        rows.append({"question": question, "answer": rng.randrange(3), "reply": reply})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "tasks").mkdir()
    for name, text in TASKS.items():
        said = f"task: {name}\n{HEAD}{text}".format(file=tmp_path / "rows.jsonl")
        (tmp_path / "tasks" / f"{name}.yaml").write_text(said, encoding="utf-8")
    ours = harness.run_harness(model, list(TASKS), ReadOptions(batch=2), include=tmp_path / "tasks")
    theirs = lm_eval.simple_evaluate(
        "hf",
        model_args=f"pretrained={tmp_path / 'out'},trust_remote_code=True,dtype=float32,device=cpu",
        tasks=list(TASKS),
        task_manager=TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False),
        batch_size=2,
        bootstrap_iters=0,
        log_samples=False,
    )["results"]
    for task in TASKS:
        figures = [name for name, value in ours[task].items() if isinstance(value, float) and "stderr" not in name]
        assert figures, ours[task]
        for name in figures:
            assert theirs[task][name] == pytest.approx(ours[task][name], rel=1e-5), (task, name)
