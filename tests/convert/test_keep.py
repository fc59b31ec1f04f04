"""Which mixers are kept: by number, the last ones, or those without which a model recalls less."""

import pytest
import torch

import hybridkit as hk
from hybridkit.convert.keep import (
    EPS,
    RecallAndLoss,
    auto_count,
    choose_kept,
    kept_mixers,
    kept_pattern,
    mixer_entries,
    swapped,
)
from hybridkit.convert.keep_measures import repeated, task_measure, text_measure
from hybridkit.convert.mapping import map_weights
from hybridkit.data.feed import IGNORED
from hybridkit.data.sources.recall import RecallTask
from hybridkit.evaluation.scoring import ReadOptions
from hybridkit.model.config import ModelConfig
from hybridkit.model.model import Model
from hybridkit.model.plan import Plan, compile_pattern
from hybridkit.system.errors import UserError

READING, PART, VOCAB = ReadOptions(), 64, 128


def plan(pattern: str, heads: int = 4) -> Plan:
    return compile_pattern(pattern, ModelConfig(width=32, heads=heads, vocab=40))


PATTERNS = [
    ("gdn*4", "sa*4", [1, 3], "[gdn, sa]*2"),
    ("[swa:4 | mlstm]*4", "sa(kv_heads=2)*4", [0], "[sa(kv_heads=2), [swa:4 | mlstm]*3]"),
    ("[gdn, ffn, mlstm, ffn]", "[sa, swa:9]", [1], "[gdn, ffn, swa:9, ffn]"),
    ("[gdn, ffn]*2", "[sa, ffn]*2", [0, 1], "[sa, ffn]*2"),
    ("[ffn, gdn]*2", "[ffn, sa]*2", [1], "[ffn, gdn, ffn, sa]"),
    ("gdn*2", "sa*2", [], "gdn*2"),
]


@pytest.mark.parametrize(("student", "teacher", "kept", "pattern"), PATTERNS)
def test_kept_mixers_are_the_teachers_entries_in_the_students_pattern(
    student: str, teacher: str, kept: list[int], pattern: str
) -> None:
    assert kept_pattern(plan(student), plan(teacher), kept) == plan(pattern).pattern


def test_sizes_that_followed_from_the_teachers_recipe_are_written_out() -> None:
    made = kept_pattern(plan("gdn*2", heads=2), plan("sa*2"), [1])
    assert made == "[gdn, sa(heads=4,kv_heads=4,head=8)]"


def test_numbers_count_mixers_whatever_stands_between_them() -> None:
    teacher = plan("[sa, ffn, ffn, swa:2, ffn, sa]")
    assert mixer_entries(teacher) == [0, 3, 5]
    assert kept_mixers([2, 0], teacher) == [0, 2] and kept_mixers("last 2", teacher) == [1, 2]
    assert auto_count("auto 3", teacher) == 3


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        ([3], "3: the teacher's mixers are 0 to 2; their entries are 0, 3, 5"),
        ([-1], "-1: the teacher's mixers are 0 to 2"),
        ([1, 1], "a mixer is named twice: 1, 1"),
        ("last 4", "last 4: the teacher has 3 mixers; name 1 to 3"),
        ("last 0", "name 1 to 3"),
        ("first 2", "should be a list of mixers, `last N` or `auto N`"),
        ("last two", "should be a list of mixers"),
    ],
)
def test_mixers_that_the_teacher_does_not_have_are_refused(keep: list[int] | str, said: str) -> None:
    with pytest.raises(UserError, match=r"convert\.keep") as refusal:
        kept_mixers(keep, plan("[sa, ffn, ffn, swa:2, ffn, sa]"))
    assert said in str(refusal.value)


def test_a_stack_with_other_places_has_no_kept_pattern() -> None:
    with pytest.raises(UserError, match="the teacher has 2 mixers and 2 FFNs, the student 3"):
        kept_pattern(plan("gdn*3"), plan("sa*2"), [0])


def recalling() -> Model:
    """A model with weights by hand that recalls: a convolution notes the token before, and mixer 2 looks it up.

    The width has three parts: the token, the one before it, and what is predicted. Mixer 1 and FFNs add nothing.
    """
    torch.manual_seed(0)
    lookup = "sa(heads=1,theta=null,scale=4)"
    model = hk.build(f"[conv(kernel_size=2,bias=true), {lookup}*2]", width=3 * PART, vocab=VOCAB)
    for weight in model.parameters():
        torch.nn.init.zeros_(weight)
    names = torch.nn.functional.normalize(torch.randn(VOCAB, PART), dim=1)
    token, before, answer = (slice(part * PART, (part + 1) * PART) for part in range(3))
    eye = torch.eye(PART)
    with torch.no_grad():
        model.embedding.weight[:, token] = names
        model.head.weight[:, answer] = names
        note, _, look = (entry.layer for entry in model.layers[::2])
        note.input.bias[: 6 * PART] = 1  # both gates of the convolution are open
        note.input.weight[6 * PART :][token, token] = eye
        note.conv.weight[:, 0] = 1
        note.out.weight[before, token] = eye / (3 * PART) ** 0.5  # as large as the token
        for part, read in ((look.q, token), (look.k, before), (look.v, token)):
            part.weight[token, read] = eye
        look.out.weight[answer, token] = eye
        for norm in (model.norm, *(entry.norm for entry in model.layers[::2])):
            norm.weight.fill_(1)
    return model


@pytest.mark.slow
def test_auto_keeps_the_mixer_without_which_the_model_recalls_less() -> None:
    teacher, task = recalling(), RecallTask(pairs=3, keys=8, values=8, noises=4)
    short = "swa(heads=1,theta=null,scale=4):1"
    student = hk.build(f"[conv(kernel_size=2,bias=true), {short}*2]", width=3 * PART, vocab=VOCAB)
    map_weights(teacher, student)
    weights = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    batches, seen = [task.feed(48, 8).batch(0)], list[int]()
    for measure in (task_measure(task, 12, 40, batches, READING), text_measure(batches, READING)):
        choice = choose_kept(teacher, student, 1, measure, lambda number, _: seen.append(number))
        assert choice.kept == [2] and choice.teacher.recall > 0.9 and seen[-2:] == [1, 2]
        idle, lookup = choice.candidates
        assert idle.without == choice.teacher and idle.score == 0 and (lookup.mixer, lookup.entry) == (2, 4)
        assert lookup.without.recall < 0.3 and lookup.without.loss > choice.teacher.loss + 1
    assert all(torch.equal(weight, weights[name]) for name, weight in teacher.state_dict().items())


def test_the_score_is_recall_lost_against_loss_lost_and_gains_count_as_nothing_lost() -> None:
    teacher, student = hk.build("sa*4", width=16), hk.build("swa:2*4", width=16)
    map_weights(teacher, student)
    answers = iter([(0.8, 2.0), (0.4, 2.39), (0.6, 2.0), (0.9, 2.5), (0.4, 1.5)])
    choice = choose_kept(teacher, student, 2, lambda model: RecallAndLoss(*next(answers)))
    wanted = [0.4 / (0.39 + EPS), 0.2 / EPS, 0, 0.4 / EPS]
    assert [row.score for row in choice.candidates] == pytest.approx(wanted) and choice.kept == [1, 3]


def test_the_teacher_with_one_mixer_of_the_student_is_what_its_pattern_says() -> None:
    teacher, student = hk.build("sa(kv_heads=2)*3", width=16), hk.build("[swa(kv_heads=2):3 | kda]*3", width=16)
    map_weights(teacher, student)
    whole = hk.build("[sa(kv_heads=2), [swa(kv_heads=2):3 | kda], sa(kv_heads=2)]", width=16)
    map_weights(teacher, whole)
    whole.layers[2].load_state_dict(student.layers[2].state_dict())
    tokens = torch.randint(0, 257, (1, 9), generator=torch.Generator().manual_seed(1))
    assert torch.equal(swapped(teacher, student, 2)(tokens)[0], whole(tokens)[0])


@pytest.mark.parametrize("count", [0, 3])
def test_no_more_mixers_are_chosen_than_differ(count: int) -> None:
    teacher, student = hk.build("sa*3", width=16), hk.build("[swa:2*2, sa]", width=16)
    with pytest.raises(UserError, match="name 1 to 2, the mixers that differ"):
        choose_kept(teacher, student, count, lambda model: RecallAndLoss(0, 0))


def test_a_list_for_recall_holds_distinct_tokens_of_its_row_and_then_the_same_again() -> None:
    tokens = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8], [9, 9, 8, 8, 7, 7, 7, 7]])
    batch = repeated(tokens)
    assert batch.tokens.shape == (2, 6) and torch.equal(batch.tokens[:, :3], batch.tokens[:, 3:])
    for row, source in zip(batch.tokens[:, :3], tokens, strict=True):
        assert len(set(row.tolist())) == 3 and set(row.tolist()) <= set(source.tolist())
    assert torch.equal(batch.targets[:, 3:5], batch.tokens[:, 4:]) and (batch.targets != IGNORED).sum() == 4
