"""RULER's tasks: word for word, and against the harness's own implementation on the same random numbers."""

import importlib
import os
import random
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import wonderwords

from hybridkit.evaluation.haystack import Essays, Words, key_words, open_essays, split_sentences
from hybridkit.evaluation.ruler import GROUPS, make_prompt
from hybridkit.evaluation.task import choose_task, clean, found, score
from hybridkit.system.errors import UserError

ESSAYS = Essays("test", tuple(f"Word{n}{'.' if n % 7 == 6 else ''}" for n in range(400)))
UNITS = 60


class FewWords:
    """Some of wonderwords' words: all six million pairs take half a minute to list."""

    def __init__(self) -> None:
        lists = wonderwords.RandomWord()._categories
        self._categories = {kind: sorted(words)[::50] for kind, words in lists.items()}


@pytest.fixture(scope="module")
def theirs() -> Iterator[ModuleType]:
    """The harness's module, which on import looks for sentence models that only essays need."""
    nltk = pytest.importorskip("nltk")
    pytest.importorskip("lm_eval", reason="the comparison needs the harness extra")
    few = FewWords()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(nltk.data, "find", lambda name: name)
        patch.setattr(wonderwords, "RandomWord", lambda: few)
        patch.delitem(sys.modules, "lm_eval.tasks.ruler.prepare_niah", raising=False)
        prepare_niah = importlib.import_module("lm_eval.tasks.ruler.prepare_niah")
        patch.setattr(prepare_niah, "cached_sent_tokenize", split_sentences)
        key_words.cache_clear()
        yield prepare_niah
        sys.modules.pop(prepare_niah.__name__)
    key_words.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("name", GROUPS["all"])
@pytest.mark.parametrize("seed", [0, 1])
def test_equal_streams_give_the_harness_prompts(name: str, seed: int, theirs: ModuleType) -> None:
    task = choose_task(name)
    haystack = {"noise": "repeat", "essay": "essay", "needle": "needle"}[task.haystack]
    random.seed(seed)
    text, answers, query = theirs.generate_input_output(
        UNITS,
        list(ESSAYS.words) if haystack == "essay" else theirs.get_haystack(haystack),
        type_haystack=haystack,
        num_needle_k=task.keys,
        type_needle_k=task.key,
        num_needle_v=task.values,
        type_needle_v=task.value,
        num_needle_q=task.queries,
        template=TEMPLATE,
    )
    ours = make_prompt(task, UNITS, random.Random(seed), ESSAYS)
    assert (ours.input, list(ours.outputs)) == (text, answers)
    several = task.queries * task.values > 1
    said = f"{task.value} for {query}" if several else f"{task.value[:-1]} for {query}"
    assert (
        ours.answer_prefix == f" The special magic {said} mentioned in the provided text {'are' if several else 'is'}"
    )


TEMPLATE = (
    "Some special magic {type_needle_v} are hidden within the following text. Make sure to memorize it. I will quiz"
    " you about the {type_needle_v} afterwards.\n{context}\nWhat are all the special magic {type_needle_v} for {query}"
    " mentioned in the provided text?"
)


def test_words_are_the_harness_words(theirs: ModuleType) -> None:
    ours = key_words()
    assert len(ours) > 1000 and list(ours) == theirs.WORDS


def test_words_that_begin_other_words_are_sorted_as_one_list() -> None:
    adjectives, nouns = ["ab", "ab-c", "a", "ab-c", "b c"], ["x", "c-x", "a", "z"]
    expected = sorted({f"{a}-{n}" for a in adjectives for n in nouns})
    assert list(Words(adjectives, nouns)) == expected and len(Words(adjectives, nouns)) == len(expected)


@pytest.mark.parametrize("name", GROUPS["all"])
def test_every_answer_stands_in_the_text_at_its_depth(name: str) -> None:
    prompt = make_prompt(choose_task(name), UNITS, random.Random(3), ESSAYS)
    context = prompt.input.split("\n", 1)[1].rsplit("\n", 1)[0]
    for output, depth in zip(prompt.outputs, prompt.depths, strict=True):
        (place,) = [match.start() for match in re.finditer(f"is: {output}[.]", context)]
        assert 100 * place / len(context) == pytest.approx(depth, abs=16)  # needles count in the text, not in depths


def test_the_score_is_the_share_of_outputs_in_the_prediction() -> None:
    assert score("it is ABC-1 and 22", ["abc-1", "22", "33", "4"]) == 0.5
    assert found("7654321", ["765", "654", "x"]) == [True, True, False]
    assert clean(" \x07 7\t8\x00\n ") == "7\n8"


def test_the_default_haystack_is_prose_and_repeats() -> None:
    essays = open_essays()
    sentences = essays.sentences(2 * len(essays.words))
    assert len(sentences) > 2000 and " ".join(sentences).split() == list(essays.words) * 2
    assert all(re.match(r"\W*\w", sentence) for sentence in sentences)


def test_a_haystack_never_waits_for_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One sentence.")
    os.mkfifo(tmp_path / "b.txt")
    assert open_essays(tmp_path).words == ("One", "sentence.")
    with pytest.raises(UserError, match="no such file or folder"):
        open_essays(tmp_path / "b.txt")
