"""Asks a model the samples of a cell (task, length, window); scores greedy answers, or how likely the right ones are.

A cell's file has a line of JSON for each sample, and a digest of all that the answers depend on in its name. Each batch
is appended when it is answered, so that an evaluation that was stopped continues there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isclose
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hybridkit.data.feed import IGNORED
from hybridkit.data.tokenizer import Tokenizer
from hybridkit.evaluation.cut import before_answers, cut_layers
from hybridkit.evaluation.request import Scoring
from hybridkit.evaluation.samples import Sample, Samples
from hybridkit.evaluation.scoring import ReadOptions, continuation, score_tokens
from hybridkit.evaluation.task import ANSWER_TOKENS, Prompt, clean, found, score
from hybridkit.inference.decode import decode_tokens, prefill
from hybridkit.inference.sampling import Sampling
from hybridkit.model.model import Model
from hybridkit.runs.manifest import parse_json

FIELDS = {"index", "depths", "score", "found"}  # of a line, needed when an evaluation continues


class Answer(NamedTuple):
    """A model's answer, its score in [0, 1], which outputs are right, and, if forced, the mean nats of a token."""

    prediction: str
    score: float
    found: Sequence[bool]
    nats: float | None = None


def answer_generated(model: Model, prompts: Sequence[Prompt], reading: ReadOptions) -> list[Answer]:
    """As RULER does: greedy decoding of up to 128 tokens, in which the outputs are looked for."""
    tokenizer = model.tokenizer
    assert tokenizer
    read = [tokenizer.encode(prompt.text.encode()) for prompt in prompts]
    longest = max(map(len, read))  # rows end together
    with cut_layers(model, reading.cut, lambda distance: torch.arange(longest)[None] == longest - distance):
        context = prefill(model, read, window=reading.window, chunk=reading.chunk)
    rows: list[list[int]] = [[] for _ in prompts]
    going = [True] * len(prompts)
    for tokens in decode_tokens(model, context, Sampling(temperature=0), ANSWER_TOKENS):
        for place, token in enumerate(tokens.tolist()):
            going[place] &= token != tokenizer.end
            rows[place] += [token] * going[place]
        if not any(going):
            break
    said = [clean(tokenizer.decode(row).decode(errors="replace")) for row in rows]
    return [Answer(text, score(text, p.outputs), found(text, p.outputs)) for text, p in zip(said, prompts, strict=True)]


def answer_forced(model: Model, prompts: Sequence[Prompt], reading: ReadOptions) -> list[Answer]:
    """For models that are too small to answer freely; not RULER's score.

    The model reads the right answer after the prompt. An output is right if each of its tokens was the likeliest.
    """
    tokenizer = model.tokenizer
    assert tokenizer
    spans = [_spans(tokenizer, prompt.outputs) for prompt in prompts]
    read = [tokenizer.encode(prompt.text.encode()) for prompt in prompts]
    pairs = [(ids, np.concatenate(parts)) for ids, parts in zip(read, spans, strict=True)]
    batch = continuation(pairs)
    scores = score_tokens(model, batch, reading, before_answers)
    counted = batch.targets != IGNORED
    return [
        _forced(parts, scores.right[row][counted[row]], scores.nats[row][counted[row]])
        for row, parts in enumerate(spans)
    ]


SCORINGS: Mapping[Scoring, Callable[[Model, Sequence[Prompt], ReadOptions], list[Answer]]] = {
    "ruler": answer_generated,
    "forced": answer_forced,
}


def _spans(tokenizer: Tokenizer, outputs: Sequence[str]) -> list[np.ndarray]:
    """The tokens of each output as they stand in the answer: ` a`, `, b`, `, c`."""
    texts = [f" {outputs[0]}", *(f", {output}" for output in outputs[1:])]
    return [tokenizer.encode(text.encode()) for text in texts]


def _forced(spans: list[np.ndarray], right: Tensor, nats: Tensor) -> Answer:
    """The answer; `right` (N,) says whether each of its tokens was the likeliest, `nats` (N,) are their losses."""
    hits = [bool(part.all()) for part in right.split([len(span) for span in spans])]
    return Answer("", sum(hits) / len(hits), hits, nats.mean().item())


def run_cell(
    model: Model, samples: Samples, count: int, scoring: Scoring, reading: ReadOptions, file: Path
) -> Iterator[dict[str, Any]]:
    """The lines of `count` prepared samples: those in the file, then new ones, which are appended to it first."""
    lines = read_lines(file)[:count]
    yield from lines
    file.parent.mkdir(parents=True, exist_ok=True)
    for first in range(len(lines), count, reading.batch):
        chosen = [samples[index] for index in range(first, min(first + reading.batch, count))]
        answers = SCORINGS[scoring](model, [sample.prompt for sample in chosen], reading)
        fresh = [_line(samples, sample, said) for sample, said in zip(chosen, answers, strict=True)]
        with file.open("a", encoding="utf-8") as out:
            out.write("".join(json.dumps(line) + "\n" for line in fresh))
        yield from fresh


def beyond(prompt: Prompt, reach: int, tokenizer: Tokenizer) -> list[bool]:
    """For each output, whether all of it stands further back than the last `reach` tokens of the prompt."""
    text = prompt.text
    ends = [(text.rfind(output), len(output)) for output in prompt.outputs]
    return [at >= 0 and len(tokenizer.encode(text[at + size :].encode())) > reach for at, size in ends]


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a cell's file, in order. A line that is none, such as an incomplete one that a kill left, ends the
    file: it is removed with what follows."""
    lines: list[dict[str, Any]] = []
    whole = 0
    if not file.exists():
        return lines
    for raw in file.read_bytes().splitlines(keepends=True):
        try:
            line = parse_json(raw)
        except ValueError:
            break
        if not raw.endswith(b"\n") or not _is_line(line, len(lines)):
            break
        lines.append(line)
        whole += len(raw)
    if whole < file.stat().st_size:
        os.truncate(file, whole)
    return lines


def _is_line(line: Any, index: int) -> bool:
    """Whether JSON is a sample with this index as `run_cell` writes it: its score is the share of what was found."""
    if not isinstance(line, dict) or not line.keys() >= FIELDS or line["index"] != index:
        return False
    score, found, depths = line["score"], line["found"], line["depths"]
    if not isinstance(found, list) or not isinstance(depths, list) or not len(found) == len(depths) > 0:
        return False
    if not all(isinstance(one, bool) for one in found) or not all(_is_number(depth, 100) for depth in depths):
        return False
    return _is_number(score, 1) and isclose(score, sum(found) / len(found), abs_tol=1e-9)


def _is_number(value: Any, most: float) -> bool:
    """Whether it is a number from 0 to `most`."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most


def _line(samples: Samples, sample: Sample, said: Answer) -> dict[str, Any]:
    """A sample in RULER's format, with its answer and score."""
    prompt = sample.prompt
    return {
        "index": sample.index,
        "input": prompt.input,
        "outputs": prompt.outputs,
        "answer_prefix": prompt.answer_prefix,
        "length": samples.length,
        "tokens": sample.tokens,
        "depths": prompt.depths,
        "prediction": said.prediction,
        "score": said.score,
        "found": said.found,
        "nats": said.nats,
    }
