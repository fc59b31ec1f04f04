"""`hybridkit generate`: a run goes on with texts."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybridkit.cli.options import Average, CheckpointName, Json, Plugins, RunFolder
from hybridkit.system.choices import PrecisionChoice
from hybridkit.system.errors import UserError, naming
from hybridkit.system.files import check_can_write
from hybridkit.system.strict_json import format_json
from hybridkit.system.terminal import say, say_part

if TYPE_CHECKING:
    from hybridkit.inference.decode import Context
    from hybridkit.inference.streaming import Reply, Writer

_MOST = 1 << 28  # bytes of a prompt


def generate(
    run: RunFolder,
    prompts: Annotated[list[str], typer.Argument(metavar="[PROMPT]...", help="Texts to go on with.")] = [],
    file: Annotated[list[Path], typer.Option(metavar="F", help="A prompt from a file; - is standard input.")] = [],
    tokens: Annotated[int, typer.Option(min=0, help="Tokens to generate at most.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token every time.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Draw among the K likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw among the fewest tokens of probability P in all.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Draw among tokens P times as likely as the likeliest.")] = None,
    seed: Annotated[int, typer.Option(help="Prompt i, from 0, draws what it draws alone with SEED + i.")] = 0,
    stop: Annotated[list[str], typer.Option(metavar="TEXT", help="End before this text; repeatable.")] = [],
    window: Annotated[int | None, typer.Option(min=1, help="Of every windowed block; default: its largest.")] = None,
    chunk: Annotated[int | None, typer.Option(min=1, help="Prompt tokens read at once; default: by memory.")] = None,
    save_state: Annotated[Path | None, typer.Option(metavar="F", help="Keep what was read, before the reply.")] = None,
    load_state: Annotated[Path | None, typer.Option(metavar="F", help="Go on from there with each prompt.")] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Print speeds and state bytes on standard error.")] = False,
    checkpoint: CheckpointName = None,
    precision: Annotated[
        PrecisionChoice | None, typer.Option(help="In which the model computes; default: as its weights were saved.")
    ] = None,
    average: Average = False,
    as_json: Json = False,
    plugin: Plugins = [],
) -> None:
    """Stream text from a run, in constant memory where its blocks are bounded.

    Several prompts are one batch; from a loaded state each continues on its own. Temperature comes first, then
    top-k, top-p and min-p.
    """
    texts = [*map(_given, prompts), *map(_read, file)]
    _check(texts, load_state, save_state, window)
    from hybridkit.inference.sampling import Sampling

    sampling = Sampling(temperature, top_k, top_p, min_p, seed)  # wrong values are reported before a model is read
    from hybridkit.inference.streaming import Writer
    from hybridkit.model.loading import load_model, placed

    model = load_model(run, checkpoint, average)
    writer = Writer(placed(model, model.head.weight.device, precision), sampling, tokens, stop)
    streamed = not as_json and len(texts) < 2
    replies: list[Reply] = []
    with naming(f"--chunk {max(1, (chunk or 2048) // 2)}, fewer prompts or --precision bf16"):
        for context in _contexts(writer, texts, load_state, window, chunk):
            _go_on(writer, context, replies, streamed, save_state)
    if as_json:
        say(format_json({"replies": [reply.to_json() for reply in replies]} | writer.stats.to_json()))
    else:
        say_part("\n" if streamed else "".join(f"--- {place}\n{reply.text}\n" for place, reply in enumerate(replies)))
    if stats:
        say(writer.stats, file=sys.stderr)


def _go_on(writer: Writer, context: Context, replies: list[Reply], streamed: bool, save_state: Path | None) -> None:
    """Add the reply to a context, printed as it comes where it is `streamed`; the context is kept if asked."""
    if save_state:
        _save(writer, context, save_state)
    for news in writer.reply(context, replies):
        if streamed:
            say_part(news[0])


def _given(text: str) -> str:
    return _text(text.encode("utf-8", "surrogateescape"), "the prompt")  # as the system gave it


def _read(path: Path) -> str:
    standard = str(path) == "-"
    if standard and sys.stdin is None:
        raise UserError("standard input is closed; give a prompt or --file F")
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if standard else path.open("rb") as source:
            raw = source.read(_MOST + 1)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if len(raw) > _MOST:
        raise UserError(f"{path} is longer than {_MOST >> 20} MiB, the most that a prompt may have")
    return _text(raw, "standard input" if standard else str(path))


def _text(raw: bytes, where: str) -> str:
    if not raw:
        raise UserError(f"{where} is empty; a prompt has at least one character")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 text (byte {error.start})") from error


def _check(texts: Sequence[str], load_state: Path | None, save_state: Path | None, window: int | None) -> None:
    if not texts and not load_state:
        raise UserError("there is no prompt: give a text, --file F or --load-state F")
    if not texts and window:
        raise UserError("--window is for reading a prompt, and none is given: a loaded state keeps its window")
    if save_state and len(texts) > 1:
        raise UserError(f"--save-state keeps the state of one prompt, not of {len(texts)}")
    if save_state and not save_state.parent.is_dir():
        raise UserError(f"--save-state {save_state}: there is no folder {save_state.parent}")
    if save_state:
        check_can_write(save_state, "--save-state")


def _contexts(
    writer: Writer, texts: Sequence[str], load_state: Path | None, window: int | None, chunk: int | None
) -> Iterator[Context]:
    """The contexts to continue: one of all prompts, or the loaded one after each prompt."""
    if load_state is None:
        yield writer.read(texts, window=window, chunk=chunk)
        return
    from hybridkit.inference.context_file import load_context

    loaded = load_context(load_state, writer.model)
    if len(loaded.logits) != 1:
        raise UserError(f"{load_state} holds {len(loaded.logits)} texts; generate goes on with one")
    if not texts:
        yield loaded
    for text in texts:
        yield writer.read([text], loaded, window=window, chunk=chunk)


def _save(writer: Writer, context: Context, path: Path) -> None:
    from hybridkit.inference.context_file import save_context

    save_context(context, writer.model, path)
