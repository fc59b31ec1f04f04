"""`hybridkit flops` as a user runs it: tables, JSON, plots, and complaints with exit code 2."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from command_line import outputs, reported
from project import ROOT

from hybridkit.cost.summary import cost_entry, cost_requests
from hybridkit.registry.kinds import BLOCK
from hybridkit.registry.registry import REGISTRY
from hybridkit.report.flops import SHORT, layers
from hybridkit.report.flops_plot import crossings
from hybridkit.report.numbers import format_bytes, format_count, format_tokens
from hybridkit.runs.run import load_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    file = tmp_path / "small.yaml"
    file.write_text(
        "pattern: [swa:stoch(16,64), mlstm, sa]*2\nmodel: {width: 64, tie: true}\ntrain: {precision: fp32}\n"
    )
    return str(file)


def test_json_is_the_documented_schema_and_adds_up(recipe: str) -> None:
    report = reported("flops", recipe, "xlstm-1.4b", "--context", "1k,1000", "--ranks", "4")
    assert report["schema"] == 1
    assert [(entry["recipe"], entry["context"]) for entry in report["recipes"]] == [
        (recipe, 1024),
        (recipe, 1000),
        ("xlstm-1.4b", 1024),
        ("xlstm-1.4b", 1000),
    ]
    for entry in report["recipes"]:
        params, per_token, layers = entry["params"], entry["flops_per_token"], entry["layers"]
        assert params["total"] == params["embedding"] + params["head"] + params["body"] and params["head"] == 0
        assert sum(layer["params"] for layer in layers) < params["body"]
        assert per_token["training"] == pytest.approx(3 * per_token["forward"])
        assert sum(layer["forward_flops_per_token"] for layer in layers) == pytest.approx(per_token["recompute"])
        assert sum(layer["state_bytes"] for layer in layers) == entry["state_bytes"][str(entry["context"])]
        assert {str(1024 << n) for n in range(11)} <= entry["state_bytes"].keys()
        assert [layer["index"] for layer in layers] == list(range(len(layers)))
        assert entry["memory"]["zero"]["3"] * 4 == pytest.approx(entry["memory"]["zero"]["0"], rel=1e-6)
    small = report["recipes"][0]
    assert [layer["block"] for layer in small["layers"]] == ["swa", "ffn", "mlstm", "ffn", "sa", "ffn"] * 2
    assert small["layers"][0]["window"] == "stoch(16,64)" and small["layers"][1]["window"] is None
    assert small["pattern"] == "[swa:stoch(16,64), mlstm, sa]*2"


@pytest.mark.slow
def test_options_reach_the_count(recipe: str) -> None:
    plain = reported("flops", recipe)["recipes"][0]
    assert plain["context"] == 1024, "data.sequence"
    narrow = reported("flops", recipe, "--window", "8", "--dtype", "bf16", "--batch", "2", "--memory")["recipes"][0]
    assert narrow["flops_per_token"]["forward"] < plain["flops_per_token"]["forward"]
    swa, sa = narrow["layers"][0]["state_bytes"], narrow["layers"][4]["state_bytes"]
    assert (swa, sa) == (2 * (2 * 64 * 7 * 2 + 24), 2 * (2 * 64 * 1024 * 2 + 24))
    assert narrow["memory"]["activations"]["recomputed"] < narrow["memory"]["activations"]["kept"]
    changed = reported("flops", recipe, "model.tie=false", "data.sequence=2k")["recipes"][0]
    assert changed["params"]["head"] == changed["params"]["embedding"] and changed["context"] == 2048


def test_the_table_compares_with_the_first_recipe(recipe: str) -> None:
    code, out, _ = outputs("flops", recipe, "xlstm-1.4b", "--context", "16k")
    assert code == 0 and "[swa:stoch(16,64), mlstm, sa]*2" in out
    line = next(line for line in out.splitlines() if line.startswith("parameters"))
    assert line.endswith("x") and "%" not in line, "4,371 times as many, not +437,100 %"
    assert not [line for line in out.splitlines() if len(line) > 80 and not line.startswith((recipe, "xlstm-1.4b:"))]


def test_recipes_and_contexts_are_one_table_each_figure_once() -> None:
    names = [f"{name}-1.4b" for name in ("swax-stochastic", "transformer", "xlstm")]
    code, out, _ = outputs("flops", *names, "--context", "1k,16k")
    table = out.partition("\nswax-stochastic-1.4b: ")[0].splitlines()
    assert code == 0 and max(map(len, table)) <= 80
    heads = [line for line in table if line.startswith("...-1.4b")]
    assert len(heads) == 1 and heads[0].split()[1:] == ["swax-stochastic", "transformer", "xlstm"]
    assert [sum(line.startswith(what) for line in table) for what in ("parameters", "prefill FLOPs, ")] == [1, 2]
    _, alone, _ = outputs("flops", names[0], "--context", "1k,16k")
    (line,) = (line for line in alone.splitlines() if line.startswith("forward FLOPs/token"))
    assert line.split()[2:] == ["3.022", "G", "3.092", "G"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--context", "0"], "at least 1"),
        (["--context", "-5"], "whole number"),
        (["--context", "1k,"], "whole number"),
        (["--context", "many"], "whole number"),
        (["--window", "0"], "at least 1"),
        (["--window", "8"], "no block with a window"),
        (["--plot", "/no/such/folder/x.png"], "cannot be written"),
        (["--plot", "x.gif"], ".png or .svg"),
        (["--match", "params"], "two recipes"),
        (["no-such-recipe"], "no-such-recipe"),
        (["model.width=0"], "model.width"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(words: list[str], says: str) -> None:
    code, out, err = outputs("flops", "xlstm-1.4b", *words)
    assert (code, out) == (2, "") and says in err and len(err.splitlines()) == 1


def test_a_match_prints_a_recipe_that_loads(recipe: str, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("pattern: mlstm*2\nmodel: {width: 64}\n")
    code, out, _ = outputs("flops", recipe, str(other), "--match", "params")
    matched = tmp_path / "matched.yaml"
    matched.write_text(out)
    totals = [entry["params"]["total"] for entry in reported("flops", recipe, str(matched))["recipes"]]
    assert code == 0 and totals[1] == pytest.approx(totals[0], rel=0.05)


@pytest.mark.slow
def test_verify_agrees_where_the_counters_see(recipe: str) -> None:
    found = reported("flops", recipe, "--verify")
    rows = {row["layer"]: row for row in found["verify"][0]["layers"]}
    assert rows.keys() == {"swa:stoch(16,64)", "mlstm", "sa", "ffn", "head"}
    for name in ("ffn", "head"):
        assert len({rows[name][column] for column in ("exact", "hardware", "fvcore", "torch")}) == 1
    for name in ("swa:stoch(16,64)", "sa"):
        assert rows[name]["fvcore"] < rows[name]["exact"] <= rows[name]["hardware"]
        # torch sees all that a kernel of ours executes, and nothing of its own fused one.
        assert rows[name]["torch"] in (rows[name]["hardware"], rows[name]["fvcore"])
    assert "fvcore x 2" in outputs("flops", recipe, "--verify")[1]


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["png", "svg"])
def test_plots_are_pictures(recipe: str, tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"costs.{ending}"
    assert outputs("flops", recipe, "quickstart", "--plot", str(file))[0] == 0
    if ending == "png":
        assert file.read_bytes().startswith(b"\x89PNG")
    else:
        assert ET.parse(file).getroot().tag.endswith("svg")


def test_crossings_are_where_curves_change_places() -> None:
    contexts = [1, 2, 4, 8, 16]
    assert [c.context for c in crossings(contexts, [1, 2, 4, 8, 16], [3] * 5)] == [pytest.approx(3)]
    assert list(crossings(contexts, [1, 2, 4, 4, 4], [1, 2, 4, 8, 16])) == [], "lines that part do not cross"
    assert [c.context for c in crossings(contexts, [1, 4, 4, 4, 4], [2, 4, 4, 4, 2])] == [pytest.approx(4)]
    assert list(crossings(contexts, [0] * 5, [1] * 5)) == []


def test_figures_are_written_for_people() -> None:
    assert [format_tokens(n) for n in (1000, 1024, 16384, 1 << 20)] == ["1000", "1k", "16k", "1M"]
    assert [format_count(n) for n in (0, 999, 1000, 6.1739e9)] == ["0", "999", "1.000 k", "6.174 G"]
    assert [format_bytes(n) for n in (0, 1023, 25216812)] == ["0 B", "1023 B", "24.05 MiB"]


def test_the_guide_names_every_key_of_the_schema(recipe: str) -> None:
    guide = (ROOT / "docs" / "flops.md").read_text()
    entry = reported("flops", recipe, "--memory")["recipes"][0]
    for part in (entry, entry["params"], entry["flops_per_token"], entry["memory"], entry["layers"][0]):
        assert not [key for key in part if f"`{key}`" not in guide]


@pytest.mark.slow
def test_counting_imports_nothing_heavy_and_collects_no_garbage() -> None:
    """Torch's compiler takes two seconds to import, matplotlib half of one: a count needs neither, whatever a block.
    Python's collector visits all that torch has made, at each full collection, and twice as the process ends."""
    heavy = ("torch._dynamo", "networkx", "matplotlib", "fvcore", "deepspeed", "transformers")
    names = [{"swa": "swa:8", "moe": "moe(4,2,16)"}.get(name, name) for name in REGISTRY.names(BLOCK)]
    script = f"""
import atexit, gc, sys
atexit.register(lambda: print(gc.get_freeze_count() > 100_000, file=sys.stderr))
sys.argv = ["hybridkit", "flops", "quickstart", "pattern=[{", ".join(names)}]", "--json"]
from hybridkit.cli import main
collected = gc.get_stats()[2]
try:
    main()
finally:
    print([name for name in {heavy} if name in sys.modules], gc.get_stats()[2] == collected, file=sys.stderr)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stderr == "[] True\nTrue\n" and json.loads(ran.stdout)["schema"] == 1


def test_layers_of_a_long_policy_fit_sixty_columns() -> None:
    recipe = load_recipe("quickstart", ["pattern=[swa:stoch(128,2048,p=.75), mlstm]*16"])
    entry = cost_entry(cost_requests("a", recipe)[0])
    wide, short = layers([entry]), layers([entry], SHORT)
    assert short.whole <= 60 < wide.whole and [len(table.columns) for table in (wide, short)] == [5, 4]
    assert [list(column.cells) for column in short.columns] == [list(wide.columns[at].cells) for at in (0, 1, 2, 4)]


@pytest.mark.parametrize(
    "words",
    [
        ("--batch", "99999999999999999999"),
        ("--ranks", "1099511627776"),
        ("--verify", "--count", "hardware"),
        ("--verify", "--window", "8"),
        ("quickstart", "--match", "training", "--context", "1k"),
        ("quickstart", "--match", "params", "--verify"),
        ("quickstart", "--match", "flops", "--memory"),
    ],
)
def test_options_without_effect_or_bound_are_refused(words: tuple[str, ...]) -> None:
    code, _, complaint = outputs("flops", "recall", *words)
    assert code == 2 and "Traceback" not in complaint


def test_a_ramp_over_many_windows_ends(tmp_path: Path) -> None:
    """Windows from a row's length on see what the longest sees; below it, more than 2^17 are refused."""
    near = reported("flops", "quickstart", "pattern=swa:ramp(1,1048576,.1,.9)", "--context", "64")["recipes"][0]
    whole = reported("flops", "quickstart", "pattern=sa", "--context", "64")["recipes"][0]
    low, high = near["flops_per_token"]["forward"], whole["flops_per_token"]["forward"]
    assert 0.9 * high < low < high
    code, _, complaint = outputs("flops", "quickstart", "pattern=swa:ramp(1,1048576,.1,.9)", "--context", "1M")
    assert code == 2 and "more than 131,072" in complaint
