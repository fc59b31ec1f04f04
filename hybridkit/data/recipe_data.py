"""What a recipe's `data` names: as the feed that a trainer reads, and held-out text in rows of any length."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

from hybridkit.data.batches import Batches, cover
from hybridkit.data.cache import digest_of
from hybridkit.data.corpus import Corpus, prepare_corpus
from hybridkit.data.feed import Batch, ChangingFeed, Feed
from hybridkit.data.mixture import Mixture, MixturePart
from hybridkit.data.named import read_named
from hybridkit.data.prepare import BuildProgress
from hybridkit.data.source import SOURCE, FeedSource, open_source
from hybridkit.data.tokenizer import SAVED
from hybridkit.recipe.schema import Data, Train
from hybridkit.registry.registry import REGISTRY, Registry
from hybridkit.system.errors import UserError

LONG_CONTEXT = 16  # times the training length that held-out rows have unless told otherwise, where the text suffices


def open_feed(
    data: Data,
    train: Train,
    progress: BuildProgress | None = None,
    rules: int | None = None,
    registry: Registry = REGISTRY,
) -> Feed:
    """Text from the cache, or a task made up on the spot.

    Here and below, `rules` are those of a run that was made by older ones, and `registry` knows a run's own plug-ins.
    Raises UserError for what cannot be read or made.
    """
    if not is_single(data):
        return _mixture(data, train, progress, rules, registry)
    batch = train.batch_tokens // data.sequence
    if source := feed_source(data, registry):
        return source.feed(data.sequence, batch, train.seed)
    return Batches(_corpus(data, progress, rules, registry), data.sequence, batch, train.seed, data.documents)


def is_single(data: Data) -> bool:
    """Whether there is one source, and a share of it is held out."""
    return isinstance(data.source, str) and isinstance(data.validation, float)


def first_text(data: Data) -> Data:
    """The data with one source and a share that is held out of it: what evaluation takes. Of a mixture its first part;
    of validation sources the first, all of it held out."""
    return _held_out(data)[0][1]


def _held_out(data: Data) -> list[tuple[str, Data]]:
    """What is validated on, by name: each a single source, with the share of it that is held out."""
    if isinstance(data.validation, float):
        return [(part.name, one) for part, one in _parts(data)]
    named = {data.validation: data.validation} if isinstance(data.validation, str) else data.validation
    return [(name, data.model_copy(update={"source": text, "validation": 1.0})) for name, text in named.items()]


def validation_names(data: Data) -> list[str]:
    """`val_loss.NAME` for each of several texts that are validated on."""
    return [] if is_single(data) else [f"val_loss.{name}" for name, _ in _held_out(data)]


class _Share(NamedTuple):
    name: str
    weight: float


def _parts(data: Data) -> list[tuple[_Share, Data]]:
    """The sources of training, with their weights. Of these nothing is held out where validation has its own source."""
    share = data.validation if isinstance(data.validation, float) else 0.0
    if isinstance(data.source, str):
        return [(_Share(data.source, 1.0), data.model_copy(update={"validation": share}))]
    return [
        (
            _Share(one.name or one.source, one.weight),
            data.model_copy(update={"source": one.source, "validation": share}),
        )
        for one in data.source
        if one.weight
    ]


def _mixture(
    data: Data, train: Train, progress: BuildProgress | None, rules: int | None, registry: Registry
) -> Mixture:
    """All parts with the tokenizer of the first."""
    tokenizer = data.tokenizer
    made: dict[tuple[str, float], Feed] = {}

    def feed(one: Data) -> Feed:
        nonlocal tokenizer
        assert isinstance(one.source, str) and isinstance(one.validation, float)
        key = one.source, one.validation
        if key not in made:
            made[key] = open_feed(one.model_copy(update={"tokenizer": tokenizer}), train, progress, rules, registry)
            saved = getattr(getattr(made[key], "corpus", None), "folder", Path()) / SAVED
            tokenizer = str(saved) if saved.is_file() else tokenizer
        return made[key]

    def digest(one: Data) -> str:
        """Of its tokens, or, where it makes its own sequences, what it is called.

        One that changes did so by its own batches before it did by steps: such runs are not gone on with.
        """
        made = feed(one)
        if isinstance(made, Batches):
            return made.digest
        changes = isinstance(made, ChangingFeed) and made.at(0) is not made
        return f"{one.source} by step" if changes else str(one.source)

    def part(share: _Share, one: Data) -> MixturePart:
        with _naming_part(share, data):
            return MixturePart(share.name, share.weight, feed(one))

    def held_out(one: Data) -> Feed:
        with _naming_validation(data):
            return feed(one)

    trained, validated = _parts(data), _held_out(data)
    parts = [part(share, one) for share, one in trained]
    held = {name: held_out(one) for name, one in validated}
    said = [[[*share, digest(one)] for share, one in trained], [[name, digest(one)] for name, one in validated]]
    shape = data.sequence, train.batch_tokens // data.sequence, train.seed
    return Mixture(parts, held, digest_of(said), *shape, isinstance(data.validation, float))


@contextmanager
def _naming_part(share: _Share, data: Data) -> Iterator[None]:
    """Errors within name the source of training that they are about, where there are several."""
    try:
        yield
    except UserError as error:
        if isinstance(data.source, str):
            raise
        raise UserError(f"{error} (part {share.name} of the mixture)") from error


@contextmanager
def _naming_validation(data: Data) -> Iterator[None]:
    """Errors within name `data.validation` where that is a source of its own."""
    try:
        yield
    except UserError as error:
        if isinstance(data.validation, float):
            raise
        raise UserError(str(error).replace("data.source:", "data.validation:", 1)) from error


def check_sources(data: Data, train: Train, registry: Registry = REGISTRY) -> None:
    """Raises UserError where a source that is named with its arguments cannot be made. No text is looked for."""
    for text, one, naming in _sources(data):
        with naming:
            if read_named(SOURCE, text, registry) and (source := feed_source(one, registry)):
                source.feed(data.sequence, train.batch_tokens // data.sequence, train.seed)


def missing_texts(data: Data, registry: Registry = REGISTRY) -> Iterator[str]:
    """What training would say of the texts that are not there."""
    for text, _, naming in _sources(data):
        try:
            with naming:
                open_source(text, registry)
        except UserError as error:
            yield str(error)


def _sources(data: Data) -> Iterator[tuple[str, Data, AbstractContextManager[None]]]:
    """Every source that training opens, the data of it alone, and the context in which errors name its place."""
    own = [] if isinstance(data.validation, float) else _held_out(data)
    named = [(one, _naming_part(share, data)) for share, one in _parts(data)]
    for one, naming in [*named, *((one, _naming_validation(data)) for _, one in own)]:
        assert isinstance(one.source, str)
        yield one.source, one, naming


def feed_source(data: Data, registry: Registry = REGISTRY) -> FeedSource | None:
    """The source, if it makes its own sequences; None where it is text. Raises UserError for another tokenizer."""
    data = first_text(data)
    assert isinstance(data.source, str)
    source = open_source(data.source, registry)
    if not isinstance(source, FeedSource):
        return None
    if data.tokenizer != "bytes":
        raise UserError(f"data.tokenizer: {data.source} makes its own bytes; leave the tokenizer at `bytes`")
    return source


def describe_feed(feed: Feed, train: Train, vocab: int) -> list[str]:
    """What was read, in lines: amounts of text, epochs of the run, what was left out, a warning about unused ids."""
    if isinstance(feed, Mixture):
        return _describe_mixture(feed, train, vocab)
    if not isinstance(feed, Batches):
        return []
    corpus, tokens = feed.corpus, feed.tokenizer.rows.sum()
    lines = [
        f"read {corpus}",
        f"{train.steps * train.batch_tokens / len(corpus.train):,.2f} epochs of the training text",
    ]
    if corpus.skipped:
        lines.append("left out: " + ", ".join(f"{count:,} {reason}" for reason, count in corpus.skipped.items()))
    if tokens < vocab:
        lines.append(
            f"warning: the tokenizer has {tokens:,} tokens, and the model {vocab:,} rows for them; the others are never"
            " trained, and never generated (little text gives `train(V)` fewer than V tokens)"
        )
    return lines


def _describe_mixture(feed: Mixture, train: Train, vocab: int) -> list[str]:
    lines = []
    for name, share in feed.weights().items():
        part = next(part for part in feed.parts if part.name == name)
        lines.append(f"{name}: {share:.1%} of the sequences")
        own = train.model_copy(update={"batch_tokens": share * train.batch_tokens})
        lines += [f"{name}: {line}" for line in describe_feed(part.feed, own, vocab)]
    if not feed.weighted:
        corpora = ((name, getattr(held, "corpus", "made for the purpose")) for name, held in feed.held_out.items())
        lines += [f"validation on {name}: {corpus}" for name, corpus in corpora]
    return list(dict.fromkeys(lines))


def text_digest(data: Data, rules: int | None = None, registry: Registry = REGISTRY) -> str:
    """What differs once any token of the text differs, trained on or held out. Raises UserError where it is no text."""
    if is_single(data):
        return _corpus(data, None, rules, registry).digest
    return _mixture(data, Train(batch_tokens=data.sequence), None, rules, registry).digest


def context_length(data: Data, wanted: int | None, rules: int | None = None, registry: Registry = REGISTRY) -> int:
    """Tokens of a row of `held_out`: as wanted, or `LONG` training sequences if there is as much text.

    Raises UserError where there is less held-out text than wanted.
    """
    have = None if feed_source(data, registry) else len(_corpus(data, None, rules, registry).validation) - 1
    if wanted and have is not None and wanted > have:
        raise UserError(f"--context {wanted:,}: the held-out text has only {have:,} tokens to predict")
    long = LONG_CONTEXT * data.sequence
    return wanted or (long if have is None else min(long, have))


def held_out_batches(
    data: Data, context: int, rows: int, rules: int | None = None, registry: Registry = REGISTRY
) -> Iterator[Batch]:
    """The held-out text in rows of `context` tokens, `rows` at a time; documents flow into each other."""
    if source := feed_source(data, registry):
        return source.feed(context, rows).validation()
    return cover(_corpus(data, None, rules, registry).validation, context, rows, "flow")


def _corpus(data: Data, progress: BuildProgress | None, rules: int | None, registry: Registry) -> Corpus:
    data = first_text(data)
    assert isinstance(data.source, str) and isinstance(data.validation, float)
    return prepare_corpus(
        data.source,
        data.tokenizer,
        field=data.field,
        validation=data.validation,
        progress=progress,
        rules=rules,
        registry=registry,
    )
