"""What a recipe's `data` names: as the feed that a trainer reads, and held-out text in rows of any length."""

from collections.abc import Iterator

from hybridkit.data.batches import Batch, Batches, Feed, cover
from hybridkit.data.corpus import Corpus, prepare_corpus
from hybridkit.data.prepare import BuildProgress
from hybridkit.data.recall import RecallFeed, RecallTask, read_recall
from hybridkit.recipe.schema import Data, Train
from hybridkit.system.errors import UserError

LONG_CONTEXT = 16  # times the training length that held-out rows have unless told otherwise, where the text suffices


def open_feed(data: Data, train: Train, progress: BuildProgress | None = None, rules: int | None = None) -> Feed:
    """Text from the cache, or a task made up on the spot. `rules` are those of a run that was made by older ones.

    Raises UserError for what cannot be read or made.
    """
    batch = train.batch_tokens // data.sequence
    if task := open_recall(data):
        return RecallFeed(task, data.sequence, batch, train.seed)
    return Batches(_corpus(data, progress, rules), data.sequence, batch, train.seed, data.documents)


def open_recall(data: Data) -> RecallTask | None:
    """The task of `source: recall(...)`; None where the source is text. Raises UserError for another tokenizer."""
    task = read_recall(data.source)
    if task and data.tokenizer != "bytes":
        raise UserError(f"data.tokenizer: {data.source} makes bytes of its own; leave the tokenizer at `bytes`")
    return task


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


def text_digest(data: Data, rules: int | None = None) -> str:
    """What differs once any token of the text differs, trained on or held out. Raises UserError where it is no text."""
    return _corpus(data, None, rules).digest


def context_length(data: Data, wanted: int | None, rules: int | None = None) -> int:
    """Tokens of a row of `held_out`: as wanted, or `LONG` training sequences if there is as much text.

    Raises UserError where there is less held-out text than wanted.
    """
    have = None if open_recall(data) else len(_corpus(data, None, rules).validation) - 1
    if wanted and have is not None and wanted > have:
        raise UserError(f"--context {wanted:,}: the held-out text has only {have:,} tokens to predict")
    long = LONG_CONTEXT * data.sequence
    return wanted or (long if have is None else min(long, have))


def held_out_batches(data: Data, context: int, rows: int, rules: int | None = None) -> Iterator[Batch]:
    """The held-out text in rows of `context` tokens, `rows` at a time; documents flow into each other."""
    if task := open_recall(data):
        return RecallFeed(task, context, rows).validation()
    return cover(_corpus(data, None, rules).validation, context, rows, "flow")


def _corpus(data: Data, progress: BuildProgress | None, rules: int | None) -> Corpus:
    return prepare_corpus(
        data.source, data.tokenizer, field=data.field, validation=data.validation, progress=progress, rules=rules
    )
