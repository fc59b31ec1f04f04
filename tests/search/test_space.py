"""Space files: their meaning, and the messages for mistakes."""

from pathlib import Path

import pytest
from spaces import SEQUENCES, write_space

from hybridkit.search.candidate import CandidateFactory
from hybridkit.search.definition import read_definition, write_definition
from hybridkit.search.template import elements, fill, holes
from hybridkit.system.errors import UserError

SPACE = """
extends: base.yaml
space:
  w: [4, 8]
  n: {int: [1, 2]}
  p: {float: [.25, .75], step: .25}
  pattern: [swa:stoch({w},16,p={p}), mlstm]*{n}  # a comment
  train.lr: {log: [1e-3, 1e-2]}
  model.width: [16, 32]
"""


def patterns(text: str, folder: Path) -> list[str]:
    """Every pattern of a grid, canonical."""
    factory = CandidateFactory(read_definition(write_space(folder, text)))
    return [factory.make(params).pattern for params in factory.definition.space.grid()]


def test_a_template_gives_one_pattern_for_each_choice(tmp_path: Path) -> None:
    grid = SPACE.replace("{log: [1e-3, 1e-2]}", "[1e-3]")
    expected = {
        f"[swa:stoch({w},16{'' if p == '.5' else f',p={p}'}), mlstm]{n}"
        for w in (4, 8) for p in (".25", ".5", ".75") for n in ("", "*2")
    }  # fmt: skip
    found = patterns(grid, tmp_path)
    assert set(found) == expected and len(found) == 2 * len(expected), "twice, since the width is another variable"


def test_steps_of_a_range_are_decimal_fractions(tmp_path: Path) -> None:
    text = "extends: base.yaml\nspace:\n  p: {float: [0, .4], step: .1}\n  pattern: swa:stoch(4,16,p={p})\n"
    factory = CandidateFactory(read_definition(write_space(tmp_path, text)))
    made = [factory.make(params).loaded.recipe.pattern for params in factory.definition.space.grid()]
    assert made == [f"swa:stoch(4,16,p={p})" for p in (0.0, 0.1, 0.2, 0.3, 0.4)], "not 3 * .1, .30000000000000004"


def test_fields_of_the_recipe_are_set_and_all_others_stay(tmp_path: Path) -> None:
    definition = read_definition(write_space(tmp_path, SPACE + "trial: {steps: 9, data: {sequence: 32}}"))
    choice = {"w": 4, "n": 1, "p": 0.5, "train.lr": 5e-3, "model.width": 32}
    recipe = CandidateFactory(definition).make(choice).loaded.recipe
    assert (recipe.train.lr, recipe.model.width, recipe.train.steps, recipe.data.sequence) == (5e-3, 32, 9, 32)
    assert recipe.data.source == "recall(pairs=2, keys=4, values=4)" and recipe.train.min_lr == 1e-4


def test_tokens_are_rounded_up_to_whole_batches(tmp_path: Path) -> None:
    definition = read_definition(write_space(tmp_path, SEQUENCES + "trial: {tokens: 5k}"))
    choice = dict.fromkeys(definition.space.variables, "sa")
    assert CandidateFactory(definition).make(choice).loaded.recipe.train.steps == 3, "2.5 batches of 2k"


def test_steps_of_equal_flops_follow_the_windows_of_the_schedule(tmp_path: Path) -> None:
    arms = 'a: "swa:16*2", b: "swa:1*2", c: "swa:stoch(1,16,p=.5)*2"'
    text = f"extends: base.yaml\npatterns: {{{arms}}}\ntrial: {{flops: 1e10}}\n"
    factory = CandidateFactory(read_definition(write_space(tmp_path, text)))
    long, short, drawn = (factory.make({"pattern": name}) for name in "abc")
    assert long.loaded.recipe.train.steps < drawn.loaded.recipe.train.steps < short.loaded.recipe.train.steps
    for one in (long, short, drawn):
        train = one.loaded.recipe.train
        flops = train.steps * train.batch_tokens * one.costs("flops_per_token.training")
        assert abs(flops - 1e10) <= train.batch_tokens * one.costs("flops_per_token.training") / 2


@pytest.mark.parametrize("length", [1, 4, 5])
def test_a_symmetric_sequence_reads_the_same_backwards(length: int, tmp_path: Path) -> None:
    text = SEQUENCES.replace("length: 4", f"length: {length}").replace("symmetric: no", "symmetric: yes")
    space = read_definition(write_space(tmp_path, text)).space
    made = {space.fill(params)["pattern"] for params in space.grid()}
    layers = [list(elements(str(pattern))) for pattern in made]
    assert all(row == row[::-1] and len(row) == length for row in layers)
    assert len(made) == 4 ** ((length + 1) // 2)


def test_templates_nest_and_a_choice_may_be_one(tmp_path: Path) -> None:
    text = 'extends: base.yaml\nspace:\n  w: [4, 8]\n  unit: ["swa:{w}", mlstm]\n  pattern: [{unit}, sa]*2'
    assert patterns(text, tmp_path) == ["[swa:4, sa]*2", "[mlstm, sa]*2", "[swa:8, sa]*2", "[mlstm, sa]*2"]


def test_a_value_of_several_branches_is_bracketed_in_a_template(tmp_path: Path) -> None:
    units = 'space:\n  w: [4]\n  unit: ["swa:{w} | mlstm", mlstm]\n'
    text = f"extends: base.yaml\n{units}  pattern: [{{unit}}*2, sa | mlstm]"
    assert patterns(text, tmp_path) == ["[[swa:4 | mlstm]*2, sa | mlstm]", "[mlstm*2, sa | mlstm]"]
    free = "space:\n  layers: {length: 2, of: [swa:4 | mlstm, sa], symmetric: no}"
    assert patterns(f"extends: base.yaml\n{free}", tmp_path)[:2] == ["[swa:4 | mlstm]*2", "[swa:4 | mlstm, sa]"]
    assert fill("{a}", {"a": "sa | mlstm"}) == "sa | mlstm", "a whole pattern needs none"
    assert fill("[{a}, sa]", {"a": "[sa | mlstm]*2"}) == "[[sa | mlstm]*2, sa]"


def test_named_patterns_are_a_choice_by_name(tmp_path: Path) -> None:
    text = "extends: base.yaml\npatterns:\n  short: [swa:4, mlstm]*2\n  none: mlstm*{n}\nspace:\n  n: [1, 2]"
    definition = read_definition(write_space(tmp_path, text))
    assert definition.space.variables["pattern"].grid() == ["short", "none"]
    assert CandidateFactory(definition).make({"n": 2, "pattern": "none"}).pattern == "mlstm*2"


def test_match_brings_every_candidate_to_the_same_cost(tmp_path: Path) -> None:
    text = SEQUENCES + "match: params\n"
    factory = CandidateFactory(read_definition(write_space(tmp_path, text)))
    wanted = factory.make(dict.fromkeys(factory.definition.space.variables, "sa"))
    base = CandidateFactory(read_definition(write_space(tmp_path, SEQUENCES)))
    before = base.make(dict.fromkeys(base.definition.space.variables, "sa")).costs("params")
    after = {layer: factory.make(dict.fromkeys(factory.definition.space.variables, layer)).costs("params")
             for layer in ("swa:4", "mlstm")}  # fmt: skip
    target = 14_000  # what the base has, roughly: half the layers of a candidate
    assert wanted.costs("params") < before, "four layers have to be narrower than the base's two"
    assert all(abs(value - wanted.costs("params")) < 0.4 * target for value in after.values())


def test_a_definition_written_to_a_folder_is_the_same_study(tmp_path: Path) -> None:
    text = SPACE + "budget: [params <= 1e9, state_bytes@4k <= 64MiB]\ntrial: {steps: 3, train: {lr: 2e-3}}"
    definition = read_definition(write_space(tmp_path, text))
    (tmp_path / "elsewhere").mkdir()
    write_definition(definition, tmp_path / "elsewhere")
    again = read_definition(tmp_path / "elsewhere" / "space.yaml")
    assert again.fixed() == definition.fixed() and again.budget == definition.budget
    assert again.space == definition.space


WRONG = {  # what is appended or replaced: what the message names
    ("{w},16", "{v},16"): ["space.yaml:7", "{v}", "not defined", "did you mean {p}"][:3],
    ("{int: [1, 2]}", "{int: [0, 2]}"): ["n = 0", "repeat count"],
    ("{int: [1, 2]}", "{int: [2, 1]}"): ["space.n", "lowest"],
    ("{int: [1, 2]}", "{whole: [1, 2]}"): ["space.n", "list of choices"],
    ("w: [4, 8]", "w: [4, 32]"): ["w = 32", "short"],
    ("w: [4, 8]", "w: [4, 4]"): ["space.w", "twice"],
    ("w: [4, 8]", "w: [4, 8]\n  unused: [1, 2]"): ["space.yaml:5", "unused", "no template"],
    ("w: [4, 8]", 'w: "{n}"\n  v: [1]'): ["v is used by no template"],
    ("train.lr:", "train.rate:"): ["train.rate = 0.001", "rate"],
    ("train.lr:", "training.lr:"): ["training.lr"],
    ("mlstm]*", "mlstn]*"): ["mlstn", "did you mean `mlstm`"],
    ("extends: base.yaml", "extends: bass.yaml"): ["space.yaml:2", "bass.yaml"],
    ("extends: base.yaml", "sampler: grid"): ["extends"],
    ("# a comment", "\nbudget: [params < 3]"): ["budget", "params < 3"],
    ("# a comment", "\nbudget: [parms <= 3]"): ["budget", "parms", "params"],
    ("# a comment", "\nobjectives: {vall_loss: min}"): ["vall_loss", "did you mean val_loss"],
    ("# a comment", "\nobjectives: {eval.recall_far: max}"): ["eval.recall_far", "trial.evaluate"],
    ("# a comment", "\ntrial: {evaluate: --recall 8}\nobjectives: {eval.recal_far: max}"): [
        "eval.recal_far",
        "recall_far",
    ],
    ("# a comment", "\nobjectives: {val_loss: least}"): ["objectives.val_loss", "'min' or 'max'"],
    ("# a comment", "\nsampler: greed"): ["sampler", "'grid'"],
    ("# a comment", "\ntrial: {stops: 3}"): ["trial has no stops", "steps"],
    ("# a comment", "\ntrial: {steps: 3, tokens: 5}"): ["steps or tokens"],
    ("# a comment", "\ntrial: {tokens: 3, flops: 5e6}"): ["tokens or flops"],
    ("# a comment", "\ntrial: {evaluate: [--recall 8, --recall 9 --ablate gdn]}"): ["--ablate gdn", "no candidate"],
    ("# a comment", "\ntrial: {evaluate: --recall 8}\nobjectives: {eval.recall_far.16: max}"): [
        "eval.recall_far.16",
        "reports recall_far.8.own, and no recall_far.16",
    ],
    ("# a comment", "\ntrial: {evaluate: --recall 4x}"): ["trial.evaluate: --recall 4x", "whole number"],
    ("# a comment", "\ntrial: {evaluate: --recall 8 --seed one}"): ["--seed one", "whole number"],
    ("# a comment", "\ntrial: {evaluate: --needles nosuch}"): ["trial.evaluate: --needles nosuch: no such task"],
    ("# a comment", "\ntrial: {evaluate: --needles niah_single_1 --lengths 100}"): ["at length 100", "at least"],
    ("# a comment", "\ntrial: {evaluate: --needles niah_single_1}\nobjectives: {eval.niah_multikey_2: max}"): [
        "niah_multikey_2",
        "reports loss_by_position, perplexity, niah_single_1, and no",
    ],
    ("# a comment", "\ntrial: {evaluate: [--recall 8, --recall 8 --seed 1]}"): ["two", "recall_far.8.own"],
    ("# a comment", "\ntrial: {evaluate: [--recall 8 --context 64, --recall 8]}"): ["two", "loss_by_position"],
    ("# a comment", "\ntrial: {windows: [8]}"): ["trial.windows", "trial.evaluate, which is not given"],
    ("# a comment", "\npruner: {min_steps: 400}"): ["pruner", "no trial", "4 steps"],
    ("# a comment", "\ntrial: {train: {stops: 3}}"): ["stops", "steps"],
    ("# a comment", "\nbudget: {params <= 3, flops_per_token: }"): ["`flops_per_token` is no constraint"],
    ("# a comment", "\nmatch: params"): ["space.model.width", "match determines model.width"],
    ("# a comment", "\nbudjet: 3"): ["budjet", "budget"],
}


@pytest.mark.parametrize("change", WRONG, ids=lambda change: change[1].strip())
def test_a_wrong_space_is_refused_with_what_is_wrong(change: tuple[str, str], tmp_path: Path) -> None:
    lines = SPACE.replace(*change) if "\n" not in change[1] or "w:" in change[0] else SPACE + change[1].strip()
    with pytest.raises(UserError) as caught:
        CandidateFactory(read_definition(write_space(tmp_path, lines))).check()
    assert "space.yaml" in str(caught.value)
    for part in WRONG[change]:
        assert part in str(caught.value)


@pytest.mark.parametrize("text", ["", "extends: base.yaml", "extends: base.yaml\nspace: {w: 3, pattern: '[swa:{w}]'}"])
def test_a_space_in_which_nothing_varies_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing varies|extends"):
        read_definition(write_space(tmp_path, text))


def test_variables_that_contain_each_other_are_refused(tmp_path: Path) -> None:
    text = 'extends: base.yaml\nspace:\n  a: ["{b}", sa]\n  b: ["{a}"]\n  pattern: [{a}]'
    with pytest.raises(UserError, match="circle"):
        read_definition(write_space(tmp_path, text))


def test_holes() -> None:
    assert holes("[swa:{w}, {unit}]*{w}") == ["w", "unit"]
    assert fill("{a}/{b}/{c}", {"a": None, "b": True, "c": 0.5}) == "null/true/0.5"
    for text in ("{w", "w}", "{}", "{1}", "{a b}", "{{w}}"):
        with pytest.raises(ValueError, match="braces"):
            holes(text)


@pytest.mark.parametrize("setting", ["trial: {tokens: 8k}", "trial: {flops: 1e9}"])
def test_a_variable_that_a_setting_overwrites_is_refused(setting: str, tmp_path: Path) -> None:
    text = f"extends: base.yaml\nspace: {{train.steps: [2, 4]}}\n{setting}\n"
    definition = read_definition(write_space(tmp_path, text))  # as the report of an older study reads it
    with pytest.raises(UserError, match=r"space\.yaml:2:.*space\.train\.steps: trial\.\w+ determines train\.steps"):
        CandidateFactory(definition).check()


def test_runs_that_would_be_compared_twice_are_refused(tmp_path: Path) -> None:
    text = "extends: base.yaml\nspace: {train.seed: [0, 1]}\npatterns: {a: mlstm, b: sa}\ntrial: {seeds: 2}\n"
    check = CandidateFactory(read_definition(write_space(tmp_path, text + "sampler: grid\n"))).check
    check()
    definition = read_definition(write_space(tmp_path, text + "compare: {reference: a, at_end: [val_loss]}\n"))
    with pytest.raises(UserError, match=r"trial\.seeds: 2 runs from each train\.seed"):
        CandidateFactory(definition).check()


def test_recall_of_text_is_refused_before_a_study_begins(tmp_path: Path) -> None:
    text = "extends: base.yaml\nspace: {data.source: [SOURCES]}\ntrial: {evaluate: --recall 4}\n"
    (tmp_path / "text.txt").write_text("some text")
    recall, other = '"recall(pairs=2)"', f'"{tmp_path / "text.txt"}"'
    CandidateFactory(read_definition(write_space(tmp_path, text.replace("SOURCES", f"{recall}, {other}")))).check()
    definition = read_definition(write_space(tmp_path, text.replace("SOURCES", other)))
    with pytest.raises(UserError, match=r"space\.yaml:3.*trial\.evaluate: --recall: .* trained on text"):
        CandidateFactory(definition).check()


def test_a_list_of_patterns_in_the_space_is_answered_with_where_patterns_stand(tmp_path: Path) -> None:
    text = 'extends: base.yaml\nspace: {pattern: ["[swa:4, mlstm]", "[swa:8, mlstm]"]}\n'
    with pytest.raises(UserError, match="give several patterns names, in `patterns:`"):
        read_definition(write_space(tmp_path, text))
