"""What a recipe's `data` names: as the feed that a trainer reads, and held-out text in rows of any length."""

from collections.abc import Iterator

from hybridkit.data.batches import Batches, cover
from hybridkit.data.corpus import Corpus, prepare_corpus
from hybridkit.data.feed import Batch, Feed
from hybridkit.data.prepare import BuildProgress
from hybridkit.data.source import FeedSource, open_source
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
    batch = train.batch_tokens // data.sequence
    if source := feed_source(data, registry):
        return source.feed(data.sequence, batch, train.seed)
    return Batches(_corpus(data, progress, rules, registry), data.sequence, batch, train.seed, data.documents)


def feed_source(data: Data, registry: Registry = REGISTRY) -> FeedSource | None:
    """The source, if it makes its own sequences; None where it is text. Raises UserError for another tokenizer."""
    source = open_source(data.source, registry)
    if not isinstance(source, FeedSource):
        return None
    if data.tokenizer != "bytes":
        raise UserError(f"data.tokenizer: {data.source} makes its own bytes; leave the tokenizer at `bytes`")
    return source


def describe_feed(feed: Feed, train: Train, vocab: int) -> list[str]:
    """What was read, in lines: amounts of text, epochs of the run, what was left out, what will be of no use."""
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


def text_digest(data: Data, rules: int | None = None, registry: Registry = REGISTRY) -> str:
    """What differs once any token of the text differs, trained on or held out. Raises UserError where it is no text."""
    return _corpus(data, None, rules, registry).digest


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
    return prepare_corpus(
        data.source,
        data.tokenizer,
        field=data.field,
        validation=data.validation,
        progress=progress,
        rules=rules,
        registry=registry,
    )
