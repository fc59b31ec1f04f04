"""Budgets: the meaning of expressions, and the names of costs as in `flops --json`."""

import json
from pathlib import Path

import pytest
from spaces import SEQUENCES, write_space
from typer.testing import CliRunner

from hybridkit.cli import verbs
from hybridkit.recipe.yaml_reader import read_yaml_text
from hybridkit.runs.run import load_recipe
from hybridkit.search.arguments import ablations, without_ablations
from hybridkit.search.budget import Constraint, check_budget, read_budget
from hybridkit.search.definition import read_definition
from hybridkit.search.objectives import Costs, UnknownMetric, evaluation_tree, look_up, merged_tables


def read(text: str) -> Constraint:
    (constraint,) = read_budget(read_yaml_text(f"budget: {text}", "f.yaml"))
    return constraint


@pytest.mark.parametrize(
    ("text", "name", "low", "high"),
    [
        ("[flops_per_token <= 3.1e9]", "flops_per_token", float("-inf"), 3.1e9),
        ("flops_per_token <= 3.1e9", "flops_per_token", float("-inf"), 3.1e9),
        ("{state_bytes@131072: <= 64MiB}", "state_bytes@131072", float("-inf"), 64 * 2**20),
        ("[{state_bytes@128k: <= 1 GiB}]", "state_bytes@128k", float("-inf"), 2**30),
        ("[memory.weights >= 2k]", "memory.weights", 2048, float("inf")),
        ("{params: 1.4e9 +- 2%}", "params", 1.4e9 * 0.98, 1.4e9 * 1.02),
    ],
)
def test_expressions(text: str, name: str, low: float, high: float) -> None:
    constraint = read(text)
    assert (constraint.name, constraint.high) == (name, pytest.approx(high)) and constraint.low == pytest.approx(low)
    inside = min(high, 1e15) if low == float("-inf") else low
    assert (
        constraint.violation(inside) == 0
        and max(constraint.violation(inside * 1.5), constraint.violation(inside / 2)) == 0.5
    )


def test_the_excess_adds_up_and_grows_with_the_distance() -> None:
    budget = (read("[a <= 100]"), read("{b: 10 +- 10%}"))
    figures = {"a": 150.0, "b": 4.5}
    check = check_budget(budget, figures.__getitem__)
    assert check.violation == pytest.approx(0.5 + 0.5) and str(check) == "a = 150, b = 4.5"


@pytest.mark.parametrize(
    "name", ["params", "flops_per_token", "flops_per_token.decode", "prefill_flops", "params.body"]
)
def test_names_are_the_paths_of_flops_json(name: str, tmp_path: Path) -> None:
    write_space(tmp_path, SEQUENCES)
    base = tmp_path / "base.yaml"
    for context in (16, 2048):
        said = CliRunner().invoke(verbs(), ["flops", str(base), "--context", str(context), "--json"]).stdout
        (entry,) = json.loads(said)["recipes"]
        costs = Costs(load_recipe(base))
        path = {"params": "params.total", "flops_per_token": "flops_per_token.forward"}.get(name, name)
        table, _, key = path.partition(".")
        assert costs(f"{name}@{context}") == (entry[table][key] if key else entry[table])
        assert costs(f"state_bytes@{context}") == entry["state_bytes"][str(context)]
    assert costs("params@16") == costs("params")


def test_an_unknown_metric_lists_the_names_of_its_table(tmp_path: Path) -> None:
    write_space(tmp_path, SEQUENCES)
    with pytest.raises(UnknownMetric) as caught:
        Costs(load_recipe(tmp_path / "base.yaml"))("flops_per_token.forwards")
    assert "flops_per_token.forward" in caught.value.known


def test_the_name_of_a_table_means_its_mean() -> None:
    cells = [{"run": "a", "task": "far", "length": n, "window": w, "score": n * w} for n in (1, 2) for w in (10, 20)]
    plain = {"cells": cells, "perplexity": {"run": [{"window": None, "perplexity": 7.0}]}, "tasks": {}}
    tree = {"eval": evaluation_tree(plain, [10, 20])}
    assert look_up(tree, "eval.far.2.10") == 20
    assert look_up(tree, "eval.far.2") == 30 and look_up(tree, "eval.far") == 22.5
    assert look_up(tree, "eval.perplexity.10.perplexity") == 7.0, "without a window, at all of them"


def test_ablated_figures_have_names_of_their_own_and_the_first_answer_stays() -> None:
    runs = {"trials/0 without b/seed-0": 1, "trials/0 without b/seed-0 without swa": 2}
    cells = [{"run": run, "task": "far", "length": 8, "window": 4, "score": score} for run, score in runs.items()]
    lines = {run: [{"window": 4, "loss": score}] for run, score in runs.items()}
    tree = evaluation_tree({"cells": cells, "perplexity": lines, "tasks": {}}, [4], "trials/0 without b/seed-0")
    again = {"far": {"8": {"4": 9}, "16": {"4": 3}}}
    assert merged_tables([tree, again]) == {
        "far": {"8": {"4": 1}, "16": {"4": 3}},
        "far without swa": {"8": {"4": 2}},
        "perplexity": {"4": {"loss": 1}},
        "perplexity without swa": {"4": {"loss": 2}},
    }


def test_arguments_lose_the_ablations_of_blocks_that_a_stack_lacks() -> None:
    text = "--recall 8 --no-perplexity --ablate=swa --ablate mlstm"
    assert ablations(text) == ["swa", "mlstm"]
    assert without_ablations(text, {"mlstm"}) == ("--recall", "8", "--no-perplexity", "--ablate", "swa")


def test_a_constraint_may_be_a_key_without_a_value(tmp_path: Path) -> None:
    definition = read_definition(write_space(tmp_path, SEQUENCES + "budget: {params <= 2e4, state_bytes@4k <= 1KiB}"))
    assert [(one.name, one.high) for one in definition.budget] == [("params", 2e4), ("state_bytes@4k", 1024)]


def test_a_definition_has_its_constraints(tmp_path: Path) -> None:
    definition = read_definition(write_space(tmp_path, SEQUENCES + "budget:\n  - params <= 2e4\n  - state_bytes <= 1k"))
    assert [constraint.name for constraint in definition.budget] == ["params", "state_bytes"]


def test_the_harness_has_a_figure_for_each_window() -> None:
    tasks = {f"a, window {w}": {"arc": {"acc,none": w / 100}} for w in (4, 8)} | {"a without b, window 4": {"arc": {}}}
    tree = {"eval": evaluation_tree({"cells": [], "perplexity": {}, "tasks": tasks}, [], "a")}
    assert look_up(tree, "eval.arc.acc,none.8") == 0.08 and look_up(tree, "eval.arc.acc,none") == pytest.approx(0.06)
    plain = {"cells": [], "perplexity": {}, "tasks": {"a": {"arc": {"acc,none": 0.5}}}}
    assert evaluation_tree(plain, [], "a") == {"arc": {"acc,none": {"own": 0.5}}}
