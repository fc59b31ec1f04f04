"""Recipes: defaults, errors that point, extends, overrides, writing and comparing; and the shipped ones."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridkit.recipe.files import (
    Data,
    ModelOptions,
    Recipe,
    RecipeChange,
    RecipeError,
    Train,
    dump,
    read_recipe,
    recipe_changes,
)
from hybridkit.recipe.train import FromRun
from hybridkit.system.errors import UserError

PATTERN = "pattern: [swa:128, mlstm]*2\n"

WRONG = {  # the lines below the pattern: where, and what the message says
    "trian: {lr: 1}": ("2:1", 'a recipe has no "trian"; did you mean "train"?'),
    "extend: x": ("2:1", 'did you mean "extends"?'),
    "zzz: 1": ("2:1", "known here: pattern, model, data, train, convert, extends"),
    "train: {lrr: 1}": ("2:9", 'train has no "lrr"; did you mean "lr"?'),
    "train: {from_: x}": ("2:9", 'did you mean "from"?'),
    "data:\n  source: a\n  sequnce: 4": ("4:3", 'data has no "sequnce"; did you mean "sequence"?'),
    "train: {lr: fast}": ("2:13", 'train.lr should be a number, not "fast"'),
    "train: {lr: 1e999}": ("2:13", "train.lr should be a number"),
    "train:\n  lr: 0": ("3:7", "train.lr should be greater than 0, not 0"),
    "train: {steps: 1.5}": ("2:16", "train.steps should be a whole number, not 1.5"),
    "train: {steps: true}": ("2:16", "train.steps should be a whole number, not true"),
    "train: {zero: 4}": ("2:15", "train.zero should be less than or equal to 3, not 4"),
    "train: {schedule: cosin}": ("2:19", "train.schedule should name a schedule (constant, cosine, wsd"),
    "train: {betas: [.9]}": ("2:16", "train.betas has too few values"),
    "train: {betas: [.9, 1]}": ("2:21", "train.betas.1 should be less than 1, not 1"),
    "train: {micro_batch: x}": ("2:22", "train.micro_batch should be 'auto' or a whole number, not \"x\""),
    "train:": ("2:7", "train should be a mapping of keys to values, not null"),
    "train: {batch_tokens: 5000}": ("2:23", "should be a multiple of data.sequence, 1024, not 5000"),
    "data: {sequence: 1000}": ("2:18", "train.batch_tokens should be a multiple of data.sequence, 1000, not 8192"),
    "train: {min_lr: 1}": ("2:17", "train.min_lr should be at most train.lr, 0.001, not 1"),
    "data: {sequence: 1kk}": ("2:18", "data.sequence should be a whole number, which k"),
    "data: {validation: 1}": ("2:20", "data.validation should be a share between 0 and 1"),
    "model: {tie: maybe}": ("2:14", "model.tie should be true or false"),
    "model: {ffn: {width: [1]}}": ("2:22", "model.ffn.width should be"),
    "train: {probes: [{every: 1, foo: 2}]}": ("2:29", 'train.probes.0 has no "foo"'),
    "extends: 3": ("2:10", "extends should be another recipe"),
    "extends: nil.yaml": ("2:10", "extends nil.yaml: no such file"),
    "extends: r.yaml": ("2:10", "extends goes round"),
    "model: {width: 1, width: 2}": ("2:19", "`width` is given twice"),
}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(text: str, *overrides: str) -> Recipe:
    Path("r.yaml").write_text(text, encoding="utf-8")
    return read_recipe("r.yaml", overrides).recipe


@pytest.mark.parametrize("text", WRONG)
def test_mistakes_are_pointed_at(text: str) -> None:
    place, message = WRONG[text]
    with pytest.raises(UserError) as caught:
        read(PATTERN + text)
    assert str(caught.value).startswith(f"r.yaml:{place}: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_are_read_as_people_write_them() -> None:
    model = "model: {tie: yes, vocab: 1k, ffn: null, logit_cap: 30}"
    recipe = read(f"{PATTERN}{model}\ndata: {{sequence: 2k}}\ntrain: {{batch_tokens: 1M, lr: 3e-4}}")
    assert (recipe.model.tie, recipe.model.vocab, recipe.model.ffn, recipe.model.logit_cap) == (True, 1024, None, 30.0)
    assert (recipe.data.sequence, recipe.train.batch_tokens, recipe.train.lr) == (2048, 1024**2, 3e-4)
    assert read(PATTERN + "model: {ffn: {width: 64}}").model.ffn == {"block": "ffn", "width": 64}


@pytest.mark.parametrize("text", ["", "pattern:", "pattern: {a: b}", "pattern:\n- sa\n- sa", "model: {width: 64}"])
def test_a_recipe_needs_a_pattern(text: str) -> None:
    with pytest.raises(RecipeError, match="pattern"):
        read(text)


def test_mistakes_in_the_pattern_point_into_the_file() -> None:
    with pytest.raises(UserError, match=r"^r\.yaml:3:13: ") as caught:
        read("model: {width: 64}\npattern: [swa:128,\n    mlstm * * 2]")
    assert str(caught.value).endswith("\n      mlstm * * 2]\n" + " " * 14 + "^")


OVERRIDES = {
    "train.lr=2e-3": ("train.lr", 2e-3),
    "train.betas=[.8, .9]": ("train.betas", (0.8, 0.9)),
    "model.ffn.width=64": ("model.ffn", {"block": "ffn", "width": 64}),
    "data={source: a.txt}": ("data.source", "a.txt"),
    "data.source=recall(pairs=6, noise=.5)": ("data.source", "recall(pairs=6, noise=.5)"),
    "train.from=runs/a=b": ("train.from", FromRun(run="runs/a=b")),
    "train.from={run: a, checkpoint: 7}": ("train.from", FromRun(run="a", checkpoint=7)),
    "pattern=[sa]*4": ("pattern", "[sa]*4"),
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_an_override_changes_its_field_alone(override: str) -> None:
    plain, changed = read(PATTERN), read(PATTERN, override)
    assert [(change.key, change.new) for change in recipe_changes(plain, changed)] == [OVERRIDES[override]]


BAD_OVERRIDES = ["train.lr=x", "train.lr=[1]", "train.lr.x=1", "train.lr", "lr=1", "=", "a..b=1", "train.betas=[.8"]
BAD_OVERRIDES += ["train.betas=[.8, x]", "extends=a", "data.source=*.txt", "pattern=[sa", "pattern=", "train.lr=\0"]
BAD_OVERRIDES += [".".join("a" * 50) + "=1", "train={stops: 3}"]


@pytest.mark.parametrize("override", BAD_OVERRIDES)
def test_a_wrong_override_names_itself(override: str) -> None:
    with pytest.raises(UserError, match=r"^override `") as caught:
        read(PATTERN + "train: {betas: [.8, .9]}", override)
    assert override[:20] in str(caught.value)


def test_extending_merges_mappings_and_replaces_the_rest(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    Path("sub/base.yaml").write_text(
        "extends: ../root.yaml\nmodel: {width: 64, ffn: {width: 3}}\ntrain: {betas: [.1, .2]}"
    )
    Path("root.yaml").write_text("pattern: sa*2\nmodel: {heads: 2, width: 8}\n")
    recipe = read("extends: sub/base.yaml\nmodel: {ffn: {block: other}}\ntrain: {betas: [.3, .4]}")
    assert recipe.pattern == "sa*2" and recipe.train.betas == (0.3, 0.4)
    assert recipe.model == ModelOptions(width=64, heads=2, ffn={"block": "other", "width": 3})
    with pytest.raises(RecipeError, match=r"^sub/base\.yaml:2:16: model.width"):
        Path("sub/base.yaml").write_text("extends: ../root.yaml\nmodel: {width: -1}")
        read("extends: sub/base.yaml")


def test_places_of_what_was_replaced_are_forgotten() -> None:
    Path("base.yaml").write_text(PATTERN + "train: {betas: [.8, .9]}")
    with pytest.raises(RecipeError, match=r"^r\.yaml:2:16: train\.betas has too few"):
        read("extends: base.yaml\ntrain: {betas: [.9]}")
    with pytest.raises(UserError, match=r"^r\.yaml:2:13: "):
        read("extends: base.yaml\npattern: sa*0")


def test_extending_in_a_circle_or_too_deep_is_refused() -> None:
    Path("a.yaml").write_text("extends: r.yaml")
    with pytest.raises(RecipeError, match=r"^a\.yaml:1:10: extends goes round in a circle"):
        read("extends: ./a.yaml")
    for depth in range(40):
        Path(f"{depth}.yaml").write_text(f"extends: {depth + 1}.yaml")
    with pytest.raises(RecipeError, match="deeper than 16"):
        read_recipe("0.yaml")


def test_names_of_files_and_of_shipped_recipes() -> None:
    assert (
        read_recipe("quickstart") == read_recipe("quickstart", [])
        and read_recipe("quickstart").path.name == "quickstart.yaml"
    )
    assert read_recipe("swax-stochastic-7b").recipe == read_recipe("paper/swax-stochastic-7b").recipe
    Path("swax-128-7b").mkdir()
    assert read_recipe("swax-128-7b").recipe.model.width == 4096
    for name, message in {
        "qickstart": "did you mean quickstart",
        "swax-128-7b/": "a directory",
        "x" * 5000: "no such",
    }.items():
        with pytest.raises(UserError, match=message):
            read_recipe(name)


def test_difference_knows_what_a_resumed_run_may_change() -> None:
    old = read(PATTERN)
    allowed = ["train.steps=5", "train.lr=1", "train.min_lr=0", "train.validate_every=7", "train.engine=deepspeed"]
    refused = ["pattern=[swa:64, mlstm]*2", "model.width=64", "data.source=a", "train.seed=1", "train.batch_tokens=1k"]
    changes = {change.key: change for change in recipe_changes(old, read(PATTERN, *allowed, *refused))}
    assert {key: change.allowed for key, change in changes.items()} == {
        **{text.split("=")[0]: True for text in allowed},
        **{text.split("=")[0]: False for text in refused},
    }
    assert changes["train.steps"] == RecipeChange("train.steps", 1000, 5, True)


texts = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12
) | st.sampled_from(
    [
        "1e-3",
        "010",
        "yes",
        "null",
        "~",
        "1:30",
        ".inf",
        "=",
        "<<",
        "*x",
        "- a",
        "a: b",
        "a #b",
        "[a",
        "'",
        " a ",
        "2026-01-01",
    ]
)
numbers = st.floats(1e-12, 1.0)
json_values = st.recursive(texts | st.none() | st.booleans() | st.integers() | st.floats(-1e300, 1e300), st.lists)
recipes = st.builds(
    Recipe,
    pattern=st.sampled_from(["sa", "[swa:stoch(1,2,p=.5),\n  mlstm]*2", " [sa, ]\n", 'sa(b="c # d")']),
    model=st.builds(
        ModelOptions,
        tie=st.booleans(),
        vocab=st.none() | st.integers(1, 999),
        ffn=st.none() | st.dictionaries(texts, texts),
    ),
    data=st.builds(Data, source=texts, tokenizer=texts, field=texts, sequence=st.just(64)),
    train=st.builds(
        Train,
        lr=st.floats(1.0, 1e9),
        warmup=numbers.filter(lambda share: share < 1),
        deepspeed=st.dictionaries(texts, json_values),
        clip=st.none() | numbers,
        spike=numbers,
    ),
)


@pytest.mark.slow
@given(recipes)
@settings(deadline=None, max_examples=30)
def test_what_is_dumped_is_read_back(recipe: Recipe) -> None:
    assert read(dump(recipe)) == recipe


LINES = """
pattern: [swa:128, mlstm]*2|pattern: [sa|extends: quickstart.yaml|extends: r.yaml|model: {width: 64, ffn: null}|data:
train:|  lr: 1e-3|  steps: 5|  betas: [.9, .95]|  from: x|  seqence: 3|- a|  - b|? c|: d|# e
"""
lines = st.sampled_from(LINES.replace("\n", "|").split("|"))
mutated = st.tuples(st.lists(lines, max_size=8).map("\n".join), st.integers(0, 200), st.text(max_size=3)).map(
    lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + len(parts[2]) :]
)
keys = st.sampled_from(
    ["pattern", "train.lr", "train", "model.ffn", "model.ffn.width", "data.source", "x", "train.betas", ""]
)
overrides = st.tuples(
    keys | st.text(max_size=6), st.text(max_size=8) | st.sampled_from(["1", "null", "{a: b}", "[1, 2]"])
)


@pytest.mark.slow
@given(mutated, st.lists(overrides.map("=".join), max_size=2))
@settings(deadline=None, max_examples=200)
def test_any_recipe_is_loaded_or_refused(text: str, said: list[str]) -> None:
    Path("r.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        loaded = read_recipe("r.yaml", said)
    except UserError as error:
        assert str(error)
        return
    assert isinstance(loaded.recipe, Recipe)


def test_reading_a_recipe_imports_no_torch() -> None:
    code = "import sys; from hybridkit.recipe.files import read_recipe; read_recipe('quickstart')"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_another_ffn_or_optimizer_replaces_and_the_same_one_is_merged(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "pattern: [sa]\nmodel: {width: 16, heads: 2, ffn: {block: moe, experts: 4, active: 2, width: 8}}\n"
        "train: {optimizer: {name: muon, momentum: .9}}\n"
    )
    same = read_recipe(tmp_path / "base.yaml", ["model.ffn={block: moe, width: 16}", "train.optimizer.momentum=.8"])
    assert same.recipe.model.ffn == {"block": "moe", "experts": 4, "active": 2, "width": 16}
    assert same.recipe.train.optimizer["momentum"] == 0.8  # type: ignore[index]
    (tmp_path / "over.yaml").write_text("extends: base.yaml\nmodel: {ffn: {block: ffn, width: 24}}\n")
    other = read_recipe(tmp_path / "over.yaml", ["train.optimizer={name: adamw}"])
    assert other.recipe.model.ffn == {"block": "ffn", "width": 24} and other.recipe.model.heads == 2
    assert other.recipe.train.optimizer == read_recipe("quickstart").recipe.train.optimizer


def test_a_shipped_recipe_is_extended_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: quickstart\ntrain: {steps: 7}\n")
    mine, whole = (read_recipe(name).recipe for name in (tmp_path / "mine.yaml", "quickstart"))
    assert mine.train.steps == 7 and mine.pattern == whole.pattern and mine.model == whole.model
