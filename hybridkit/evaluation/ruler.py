"""RULER's eight needle-in-a-haystack tasks (arXiv 2404.06654; github.com/NVIDIA/RULER), worded as there.

A sample is a pure function of the task, the number of haystack units and a generator. It draws from the generator in
the order of RULER's own code, so that equal streams give equal prompts. Units are words of essays, lines of noise, or
distractor needles.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hybridkit.evaluation.haystack import Essays, key_words

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
NEEDLE = "One of the special magic {kind} for {key} is: {value}."
MANY_TEMPLATE = (
    "Some special magic {kind} are hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {kind} afterwards.\n{context}\n"
    "What are all the special magic {kind} for {query} mentioned in the provided text?"
)
MANY_PREFIX = " The special magic {kind} for {query} mentioned in the provided text are"
ONE_TEMPLATE = (
    "A special magic {kind} is hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {kind} afterwards.\n{context}\n"
    "What is the special magic {kind} for {query} mentioned in the provided text?"
)
ONE_PREFIX = " The special magic {kind} for {query} mentioned in the provided text is"
DEPTHS = tuple(round(100 * step / 39) for step in range(40))  # percent, where essays take needles
SHUFFLE_SEED = 42  # of the needles' order
ANSWER_TOKENS = 128  # room for the answer, and the tokens generated

HaystackKind = Literal["noise", "essay", "needle"]
ValueKind = Literal["words", "numbers", "uuids"]


@dataclass(frozen=True)
class Task:
    """A task: what hides the needles, what they say, and how many keys, values a key, and queries there are."""

    haystack: HaystackKind
    key: ValueKind
    value: ValueKind
    keys: int = 1
    values: int = 1
    queries: int = 1

    @property
    def needles(self) -> int:
        """Needles hidden."""
        return self.keys * self.values

    @property
    def answers(self) -> int:
        """Values asked for."""
        return self.queries * self.values


TASKS: Mapping[str, Task] = {
    "niah_single_1": Task("noise", "words", "numbers"),
    "niah_single_2": Task("essay", "words", "numbers"),
    "niah_single_3": Task("essay", "words", "uuids"),
    "niah_multikey_1": Task("essay", "words", "numbers", keys=4),
    "niah_multikey_2": Task("needle", "words", "numbers"),
    "niah_multikey_3": Task("needle", "uuids", "uuids"),
    "niah_multivalue": Task("essay", "words", "numbers", values=4),
    "niah_multiquery": Task("essay", "words", "numbers", keys=4, queries=4),
}


@dataclass(frozen=True)
class Prompt:
    """What a model reads, and what it should say."""

    input: str
    answer_prefix: str
    outputs: tuple[str, ...]
    depths: tuple[float, ...]  # percent of the haystack that stands before the needle of each output

    @property
    def text(self) -> str:
        """All that the model reads."""
        return self.input + self.answer_prefix


@dataclass(frozen=True)
class _Needle:
    key: str
    value: str
    kind: ValueKind

    def __str__(self) -> str:
        return NEEDLE.format(kind=self.kind, key=self.key, value=self.value)


def make_prompt(task: Task, units: int, rng: random.Random, essays: Essays) -> Prompt:
    """A prompt with `units` units of haystack, at least as many as needles.

    Raises UserError where the essays are too short.
    """
    keys, needles = [], []
    for _ in range(task.keys):
        keys.append(_draw(task.key, rng))
        needles += [_Needle(keys[-1], _draw(task.value, rng), task.value) for _ in range(task.values)]
    order = list(needles)
    random.Random(SHUFFLE_SEED).shuffle(order)
    context, depths = _HIDE[task.haystack](task, order, units, rng, essays)
    chosen = rng.sample(range(task.keys), task.queries)
    asked = [needle for index in chosen for needle in needles[index * task.values : (index + 1) * task.values]]
    said = {
        "kind": task.value if task.answers > 1 else task.value.removesuffix("s"),
        "query": _listed([keys[index] for index in chosen]),
    }
    template, prefix = (MANY_TEMPLATE, MANY_PREFIX) if task.answers > 1 else (ONE_TEMPLATE, ONE_PREFIX)
    places = {id(needle): depth for needle, depth in zip(order, depths, strict=True)}
    return Prompt(
        template.format(context=context, **said),
        prefix.format(**said),
        tuple(needle.value for needle in asked),
        tuple(places[id(needle)] for needle in asked),
    )


def score(prediction: str, outputs: Sequence[str]) -> float:
    """RULER's string_match_all of one sample: the share of outputs that the prediction holds, case aside."""
    return sum(found(prediction, outputs)) / len(outputs)


def found(prediction: str, outputs: Sequence[str]) -> list[bool]:
    """Whether the prediction holds each output, case aside."""
    return [output.lower() in prediction.lower() for output in outputs]


def clean(prediction: str) -> str:
    """A prediction as RULER compares it: control characters become line ends, and the ends are bare."""
    return "".join("\n" if character < " " else character for character in prediction.strip()).strip()


def _draw(kind: ValueKind, rng: random.Random) -> str:
    if kind == "numbers":
        return str(rng.randint(10**6, 10**7 - 1))
    if kind == "words":
        return rng.choice(key_words())
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])}, and {names[-1]}"


_Hidden = tuple[str, list[float]]  # the text, and the depth of each needle in percent


def _in_lines(lines: list[str], needles: Sequence[_Needle], rng: random.Random) -> _Hidden:
    places = sorted(rng.sample(range(len(lines)), len(needles)), reverse=True)
    depths = [100 * place / len(lines) for place in places]
    for place, needle in zip(places, needles, strict=True):
        lines.insert(place, str(needle))
    return "\n".join(lines), depths


def _in_noise(task: Task, needles: Sequence[_Needle], units: int, rng: random.Random, _: Essays) -> _Hidden:
    return _in_lines([NOISE] * units, needles, rng)


def _in_needles(task: Task, needles: Sequence[_Needle], units: int, rng: random.Random, _: Essays) -> _Hidden:
    others = [str(_Needle(_draw(task.key, rng), _draw(task.value, rng), task.value)) for _ in range(units)]
    return _in_lines(others, needles, rng)


def _in_essay(task: Task, needles: Sequence[_Needle], units: int, rng: random.Random, essays: Essays) -> _Hidden:
    sentences = essays.sentences(units)
    depths = sorted(rng.sample(DEPTHS, len(needles)))
    ends = [0, *(int(len(sentences) * (depth / 100)) for depth in depths)]
    parts = []
    for begin, end, needle in zip(ends, ends[1:], needles, strict=False):
        parts += [" ".join(sentences[begin:end]), str(needle)]
    return " ".join([*parts, " ".join(sentences[ends[-1] :])]), [float(depth) for depth in depths]


_HIDE: Mapping[HaystackKind, Callable[[Task, Sequence[_Needle], int, random.Random, Essays], _Hidden]] = {
    "noise": _in_noise,
    "essay": _in_essay,
    "needle": _in_needles,
}
