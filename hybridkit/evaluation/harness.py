"""Runs tasks of the lm-evaluation-harness on a model.

Requests are read chunk by chunk and never truncated, so that memory alone limits their length.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np

from hybridkit.data.feed import IGNORED
from hybridkit.data.tokenizer import SAVED
from hybridkit.evaluation.scoring import ReadOptions, continuation, score_tokens
from hybridkit.hub.tokenizer import byte_level
from hybridkit.inference.decode import prefill
from hybridkit.inference.sampling import Sampling
from hybridkit.inference.streaming import Writer
from hybridkit.model.model import Model
from hybridkit.system.errors import Failure, Interrupted, MissingExtra, UserError, nearest
from hybridkit.system.network import NO_ADDRESS, hub_if_reachable

try:
    import datasets
    import lm_eval
    from huggingface_hub import constants
    from lm_eval.api.model import TemplateLM
    from lm_eval.tasks import TaskManager
except ImportError:
    raise MissingExtra("lm_eval", "harness") from None

ALLOW_CODE = "HF_ALLOW_CODE_EVAL"  # the harness's own switch: may it execute code that models write?
NO_FORK = "DISABLE_MULTIPROC"  # the harness reads it where it computes the error of a corpus score, as chrF's
CERTAIN = (0.0, True)  # for an empty text: log-likelihood, and whether greedy decoding gives it
_SAID = 300  # characters of the harness's message
_MOST = 256  # tokens to generate, if a task does not say how many
_MOST_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")

_Pair = tuple[tuple[str, str], list[int], list[int]]  # texts; ids of the context and of its continuation
_Item = TypeVar("_Item")
_Found = TypeVar("_Found")


class Adapter(TemplateLM):
    """A model and its tokenizer, with the methods that the harness calls."""

    def __init__(self, model: Model, reading: ReadOptions, seed: int = 42) -> None:
        super().__init__()
        assert model.tokenizer
        self.model, self.reading, self.ids, self.seed = model, reading, model.tokenizer, seed
        self.raised: Exception | None = None  # by the model, not by the harness or a task file

    @property
    def eot_token_id(self) -> int:
        return self.ids.end

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """The ids of a text, without special tokens before or after it."""
        return self.ids.encode(string.encode()).tolist()

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """As the base class, and also for empty continuations, which that cannot encode."""
        asked = {place: request for place, request in enumerate(requests) if request.args[1]}
        found = dict(zip(asked, super().loglikelihood(list(asked.values()), disable_tqdm), strict=True))
        return [found.get(place, CERTAIN) for place in range(len(requests))]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of whole texts; each begins after an end of document, and is read without a break."""
        pairs = [(("", ""), [self.eot_token_id], self.tok_encode(request.args[0])) for request in requests]
        return [nats for nats, _ in self._loglikelihood_tokens(pairs)]

    def _loglikelihood_tokens(self, requests: list[_Pair], **kwargs: Any) -> list[tuple[float, bool]]:
        """The log-likelihood of each continuation, and whether greedy decoding would give it."""
        asked = {place: pair for place, pair in enumerate(requests) if pair[2]}  # an empty continuation needs no model
        size: Callable[[_Pair], int] = lambda pair: len(pair[1]) + len(pair[2])  # noqa: E731
        scores = _in_batches(list(asked.values()), size, self.reading.batch, self._own(self._scored))
        found = dict(zip(asked, scores, strict=True))
        return [found.get(place, CERTAIN) for place in range(len(requests))]

    def _scored(self, pairs: Sequence[_Pair]) -> list[tuple[float, bool]]:
        batch = continuation([(np.array(read or [self.eot_token_id]), np.array(rest)) for _, read, rest in pairs])
        scores = score_tokens(self.model, batch, self.reading)
        right = (scores.right | (batch.targets == IGNORED)).all(dim=1)
        return list(zip((-scores.nats.double().sum(dim=1)).tolist(), right.tolist(), strict=True))

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """The text that the model writes after each prompt, up to a stop string of the request."""
        replies: dict[int, str] = {}
        asked = [(place, *request.args) for place, request in enumerate(requests)]
        for _, group in itertools.groupby(sorted(asked, key=_settings), key=_settings):
            members = list(group)
            texts = _in_batches(members, lambda one: len(one[1]), self.reading.batch, self._own(self._written))
            replies |= zip((place for place, *_ in members), texts, strict=True)
        return [replies[place] for place in range(len(requests))]

    def _written(self, asked: Sequence[tuple[int, str, dict[str, Any]]]) -> list[str]:
        """The replies to requests with equal settings; each has its own seed."""
        options = asked[0][2]
        until = options.get("until") or []
        stops = [stop for stop in ([until] if isinstance(until, str) else until) if stop]
        most = next((options[name] for name in _MOST_NAMES if options.get(name)), _MOST)
        rows = [self.tok_encode(text) or [self.eot_token_id] for _, text, _ in asked]
        context = prefill(self.model, rows, window=self.reading.window, chunk=self.reading.chunk)
        return Writer(self.model, _sampling(options, f"{self.seed}/{asked[0][0]}"), most, stops).texts(context)

    def _own(self, do: Callable[[_Item], _Found]) -> Callable[[_Item], _Found]:
        """`do`, whose errors are remembered as the model's own."""

        def remembering(asked: _Item) -> _Found:
            try:
                return do(asked)
            except Exception as error:
                self.raised = error
                raise

        return remembering


def _sampling(options: dict[str, Any], drawn: str) -> Sampling:
    """The sampling that a request asks for, greedy by default; `drawn` determines its seed."""
    if not options.get("do_sample"):
        return Sampling(temperature=0)
    return Sampling(
        temperature=options.get("temperature", 1.0),
        top_k=options.get("top_k") or None,
        top_p=options.get("top_p"),
        min_p=options.get("min_p") or None,
        seed=random.Random(drawn).getrandbits(31),
    )


def _settings(asked: tuple[int, str, dict[str, Any]]) -> str:
    return json.dumps(asked[2], sort_keys=True)


def _in_batches(
    items: Sequence[_Item], size: Callable[[_Item], int], rows: int, do: Callable[[Sequence[_Item]], list[_Found]]
) -> list[_Found]:
    """`do(items)`, called with at most `rows` items at a time, of similar size: the largest come first."""
    order = sorted(range(len(items)), key=lambda place: -size(items[place]))
    found: dict[int, _Found] = {}
    for first in range(0, len(order), rows):
        chosen = order[first : first + rows]
        found |= zip(chosen, do([items[place] for place in chosen]), strict=True)
    return [found[place] for place in range(len(items))]


def run_harness(
    model: Model,
    tasks: Sequence[str],
    reading: ReadOptions,
    *,
    include: Path | None = None,
    limit: int | None = None,
    lengths: Sequence[int] = (),
    seed: int = 42,
) -> dict[str, dict[str, Any]]:
    """The harness's metrics, by task.

    `include`: a folder of task files, used instead of the harness's own tasks; `lengths`: context lengths of its RULER
    tasks; `limit`: the number of documents of each task; `seed`: of few-shot examples and of sampling. Raises UserError
    for unknown tasks, for mistakes in task files, and for tasks that would execute code which the model writes, unless
    the environment variable HF_ALLOW_CODE_EVAL is 1.
    """
    adapter = Adapter(model, reading, seed)
    seeds = {f"{name}random_seed": seed for name in ("", "numpy_", "torch_", "fewshot_")}
    with _tokenizer_folder(model) as tokenizer, _in_one_process(), _explaining(tasks, adapter):
        about = {"tokenizer": str(tokenizer), "max_seq_lengths": list(lengths)} if lengths else {}
        manager = TaskManager(include_path=include and str(include), include_defaults=include is None, metadata=about)
        for task in tasks:
            if task not in manager.all_tasks:
                hint = f"; did you mean `{close}`?" if (close := nearest(task, manager.all_tasks)) else ""
                raise UserError(f"--tasks {task}: the harness has no such task{hint}")
        found = lm_eval.simple_evaluate(
            adapter,
            tasks=list(tasks),
            limit=limit,
            task_manager=manager,
            bootstrap_iters=1000,
            log_samples=False,
            confirm_run_unsafe_code=os.environ.get(ALLOW_CODE) == "1",
            **seeds,
        )
    return {
        task: {k: v for k, v in row.items() if isinstance(v, int | float) and math.isfinite(v)}
        for task, row in found["results"].items()
    }


@contextmanager
def _explaining(tasks: Sequence[str], adapter: Adapter) -> Iterator[None]:
    """What the harness raises as UserError, and what the model raises as it is. Where the Hub cannot be found, the
    harness does not try for long."""
    with hub_if_reachable(datasets.config, constants) as reachable:
        try:
            yield
        except ZeroDivisionError as error:  # a mean over no text, as in bits per byte
            raise UserError("--tasks: no document that was asked holds any text, so that there is no mean") from error
        except (UserError, Failure, Interrupted):
            raise
        except Exception as error:
            if error is adapter.raised:
                raise
            if isinstance(error, ValueError) and "unsafe" in str(error):
                advice = f"To let code run that the model writes, set {ALLOW_CODE}=1."
                raise UserError(f"--tasks: {error} {advice}") from None
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:_SAID]}"
            missing = not reachable and isinstance(error, ConnectionError)
            raise UserError(f"--tasks {','.join(tasks)}: {NO_ADDRESS if missing else said}") from error


@contextmanager
def _in_one_process() -> Iterator[None]:
    """The harness's bootstrap forks no processes within: those would hang where torch has threads."""
    before = os.environ.get(NO_FORK)
    os.environ[NO_FORK] = "1"
    try:
        yield
    finally:
        del os.environ[NO_FORK]
        os.environ |= {NO_FORK: before} if before is not None else {}


@contextmanager
def _tokenizer_folder(model: Model) -> Iterator[Path]:
    """A folder from which transformers loads the model's tokenizer: the harness's RULER tasks count tokens with it."""
    assert model.tokenizer
    with TemporaryDirectory() as name:
        folder = Path(name)
        model.tokenizer.save(folder)
        if not (folder / SAVED).exists():
            (folder / SAVED).write_text(json.dumps(byte_level()), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}), encoding="utf-8"
        )
        yield folder
