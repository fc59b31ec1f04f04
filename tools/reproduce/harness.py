"""The scores of lm-eval's own `hf` model on exported folders, beside those of our adapter on the runs.

    OMP_NUM_THREADS=2 python tools/reproduce/harness.py

Models with random weights (as tests/helpers/checkpoint.py makes them), one a row of STACKS: classes of transformers and
remote code, with windows, experts and recurrent layers. Tasks are local: multiple choice (with an empty context, and
with text beyond ASCII), rolling log-likelihood, and generation with and without stop strings; the documents are texts
of Python's library. Prints a table of the largest relative difference; exit code 1 where one is above 1e-5.
"""

import argparse
import json
import logging
import os
import random
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "helpers"))
warnings.simplefilter("ignore")

from checkpoint import run_of  # noqa: E402

import hybridkit  # noqa: E402
from hybridkit.evaluation.scoring import ReadOptions  # noqa: E402
from hybridkit.hub.export import export_run  # noqa: E402

LARGEST = 1e-5  # relative: sums over a document in fp32
STACKS: dict[str, tuple[str, dict[str, Any]]] = {
    "full attention": ("sa(kv_heads=2)*2", {}),
    "one window": ("swa(kv_heads=2):24*2", {}),
    "windows and full attention": ("[swa(qk_norm=true):16, sa(qk_norm=true)]", {}),
    "SWAX": ("[swa:stoch(8,32), mlstm]", {}),
    "side by side, experts": ("[swa:16 | mlstm, moe(4,2,16)]", {"ffn": None}),
    "delta rule": ("[gdn, sa(gate=true)]", {}),
}
HEAD = "task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {file}}}}}\ntest_split: test\n"
WRITING = 'output_type: generate_until\ndoc_to_text: "{{question or text}}"\ndoc_to_target: "{{reply}}"\n'
TASKS = {
    "choice": 'output_type: multiple_choice\ndoc_to_text: "{{question}}"\ndoc_to_choice: "{{choices}}"\n'
    "doc_to_target: answer\nmetric_list: [{metric: acc}, {metric: acc_norm}]\n",
    "likelihood": 'output_type: loglikelihood\ndoc_to_text: "{{question}}"\ndoc_to_target: "{{reply}}"\n'
    "metric_list: [{metric: perplexity}, {metric: acc}]\n",
    "rolling": 'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{text}}"\n'
    "metric_list: [{metric: bits_per_byte}, {metric: byte_perplexity}, {metric: word_perplexity}]\n",
    "written": f"{WRITING}generation_kwargs: {{max_gen_toks: 8, until: []}}\nmetric_list: [{{metric: exact_match}}]\n",
    "stopped": f'{WRITING}generation_kwargs: {{max_gen_toks: 24, until: ["e", "\\n"]}}\n'
    "metric_list: [{metric: exact_match}]\n",
}


def main() -> int:
    """Print a row for each stack; 1 where a figure differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=12)
    documents = parser.parse_args().documents
    logging.disable(logging.ERROR)
    print(f"| stack | exported as | {' | '.join(TASKS)} |\n|---|---|{'---|' * len(TASKS)}")
    worst = 0.0
    for name, (pattern, options) in STACKS.items():
        with tempfile.TemporaryDirectory() as folder:
            family, found = _compared(pattern, options, Path(folder), documents)
        worst, escaped = max(worst, *found.values()), pattern.replace("|", "\\|")
        print(f"| {name}, `{escaped}` | {family} | {' | '.join(f'{one:.1e}' for one in found.values())} |", flush=True)
    return 1 if worst > LARGEST else 0


def _compared(pattern: str, options: dict[str, Any], place: Path, documents: int) -> tuple[str, dict[str, float]]:
    """The family of the export, and the largest relative difference of a figure of each task."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    from hybridkit.evaluation.harness import run_harness

    run = run_of(pattern, place / "run", **options)
    family = export_run(run, place / "out").family
    model = hybridkit.load(run)
    rows = list(_rows(model, documents))
    (place / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (place / "tasks").mkdir()
    for name, text in TASKS.items():
        said = HEAD.format(name=name, file=place / "rows.jsonl") + text
        (place / "tasks" / f"{name}.yaml").write_text(said, encoding="utf-8")
    ours = run_harness(model, list(TASKS), ReadOptions(batch=3), include=place / "tasks")
    theirs = lm_eval.simple_evaluate(
        "hf",
        model_args=f"pretrained={place / 'out'},trust_remote_code=True,dtype=float32,device=cpu",
        tasks=list(TASKS),
        task_manager=TaskManager(include_path=str(place / "tasks"), include_defaults=False),
        batch_size=3,
        bootstrap_iters=0,
        log_samples=False,
    )["results"]
    return family, {task: _difference(ours[task], theirs[task]) for task in TASKS}


def _rows(model: Any, count: int) -> Any:
    """Documents: a question, three choices of unequal length, a reply that is right every other time, a text."""
    rng, library = random.Random(0), Path(os.__file__).parent
    for number, file in enumerate(sorted(library.glob("a*.py"))[:count]):
        text = file.read_text(encoding="utf-8")[:600] + " \u00fc\u4e16\U0001f600"
        question = "" if number == 3 else text[: 5 + 17 * number].rstrip() + "\u00e9" * (number % 2)
        context = model.prefill(question or "x")
        ids = [int(one) for one in model.generate(context, max_tokens=8, temperature=0)]
        reply = model.tokenizer.decode(ids).decode(errors="replace") if number % 2 else "never"
        choices = [" a", f" {text[30:45]}", " \u4e16\u754c and more"]
        said = {"question": question, "choices": choices, "answer": rng.randrange(3), "reply": reply, "text": text}
        yield said


def _difference(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    figures = [name for name, value in ours.items() if isinstance(value, float) and "stderr" not in name]
    assert figures, ours
    return max(abs(theirs[name] - ours[name]) / max(abs(theirs[name]), 1e-3) for name in figures)


if __name__ == "__main__":
    sys.exit(main())
