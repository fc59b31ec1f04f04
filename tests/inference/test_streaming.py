"""Text as it comes: whole characters, stop strings, ends."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

import hybridkit
from hybridkit.data.tokenizer import ByteTokenizer, Tokenizer
from hybridkit.data.tokenizers._bpe import ByteLevel, MeasuredTokenizer, train_bpe
from hybridkit.inference.context_file import load_context, save_context
from hybridkit.inference.decode import decode_tokens
from hybridkit.inference.sampling import Sampling
from hybridkit.inference.streaming import Reply, Stops, Writer
from hybridkit.model.model import Model
from hybridkit.system.errors import UserError


def fed(tokenizer: Tokenizer, ids: Sequence[int], stops: Sequence[str] = ()) -> tuple[Reply, list[str]]:
    """A reply that took all ids in, and the pieces it gave out."""
    reply = Reply(tokenizer, stops)
    return reply, [*(reply.feed(token) for token in ids), reply.close("tokens")]


@pytest.fixture(scope="module", params=["bytes", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return (
        ByteTokenizer() if request.param == "bytes" else train_bpe([b"ein paar kurze Worte, ein paar mehr " * 9], 280)
    )


@pytest.mark.parametrize("text", ["naïve façade", "日本語 🦊🏽 end", "é" * 20])
def test_characters_come_whole(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text.encode()).tolist()
    reply, pieces = fed(tokenizer, ids)
    assert "".join(pieces) == reply.text == text
    assert (reply.tokens, reply.ending) == (len(ids), "tokens")
    assert all("\ufffd" not in piece for piece in pieces)


def test_the_end_of_the_document_ends_a_reply(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(b"one").tolist()
    reply, _ = fed(tokenizer, [*ids, tokenizer.end, *ids])
    assert (reply.text, reply.tokens, reply.ending) == ("one", len(ids) + 1, "end")


def test_a_stop_string_may_span_tokens(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(b"ein paar kurze Worte, ein").tolist()
    for stop, text in (
        ("rze W", "ein paar ku"),
        ("ein", ""),
        ("t", "ein paar kurze Wor"),
        (", e", "ein paar kurze Worte"),
    ):
        reply, pieces = fed(tokenizer, ids, [stop, "never said"])
        assert "".join(pieces) == reply.text == text
        assert reply.ending == "stop"


def test_the_beginning_of_a_stop_string_is_given_out_in_the_end() -> None:
    reply, pieces = fed(ByteTokenizer(), list(b"abc\nUse"), ["\nUser:"])
    assert (reply.text, reply.ending) == ("abc\nUse", "tokens")
    assert pieces[:4] == ["a", "b", "c", ""] and pieces[-1] == "\nUse"
    assert fed(ByteTokenizer(), [*b"abc\nUse", 256], ["\nUser:"])[0].text == "abc\nUse"


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_stops_do_not_depend_on_the_pieces(text: str, strings: list[str], data: st.DataObject) -> None:
    def run(pieces: Sequence[str]) -> tuple[str, bool]:
        stops, out = Stops(strings), ""
        for piece in pieces:
            if not stops.found:
                out += stops.feed(piece)
        return out + stops.close(), stops.found

    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    out, found = run([text])
    assert run(pieces) == run(list(text)) == (out, found)
    assert found == any(s in text for s in strings)
    assert text.startswith(out) and not any(s in out for s in strings)


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(UserError, match="empty"):
        Stops(["x", ""])


def spaced() -> Tokenizer:
    """SentencePiece's kind: a space before every text, which decoding takes away again."""
    pieces = ["<unk>", "</s>", "▁", *"abehnt", "▁the", "▁an", "▁at"]
    library = Library(models.Unigram([(piece, -1.0) for piece in pieces], 0))
    library.pre_tokenizer, library.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    library.add_special_tokens(["<unk>", "</s>"])
    return MeasuredTokenizer(library.to_str())


@pytest.fixture(scope="module")
def padded() -> Model:
    """A model with rows for twice as many tokens as it has, of which the others are the likeliest."""
    tokenizer = spaced()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = hybridkit.build("[swa:8]", width=32, vocab=2 * tokenizer.vocab).requires_grad_(False)
    model.tokenizer = tokenizer
    model.head.weight[: tokenizer.vocab] *= 0.01
    model.head.weight[tokenizer.vocab :] *= 100
    return model


@pytest.mark.parametrize(
    "sampling",
    [Sampling(0), Sampling(), Sampling(100.0), Sampling(top_k=3), Sampling(top_k=10**6), Sampling(top_p=0.9),
     Sampling(top_p=1.0), Sampling(min_p=0.01), Sampling(0.01, top_k=20, top_p=0.5, min_p=0.5)],
    ids=str,
)  # fmt: skip
def test_rows_without_a_token_are_never_picked(padded: Model, sampling: Sampling) -> None:
    context = padded.prefill(["the at", "an an"])
    assert (context.logits.argmax(dim=-1) >= padded.tokenizer.vocab).any()
    for tokens in decode_tokens(padded, context, sampling, 20):
        assert (tokens < padded.tokenizer.vocab).all()


def test_a_hole_within_the_vocabulary_is_never_picked(padded: Model) -> None:
    made = json.loads(train_bpe([b"ab"], 300).library.to_str())
    vocab = made["model"]["vocab"]
    made["model"]["vocab"] = {name: token + (token > 100) for name, token in vocab.items()}  # 101 is no token
    tokenizer = ByteLevel(json.dumps(made))
    assert not tokenizer.rows[101] and tokenizer.rows.sum() == tokenizer.vocab - 1
    assert tokenizer.decode(tokenizer.encode(bytes(range(256)))) == bytes(range(256))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = hybridkit.build("[swa:8]", width=32, vocab=tokenizer.vocab).requires_grad_(False)
    model.tokenizer = tokenizer
    model.head.weight[101] *= 1000
    picked = torch.cat(list(decode_tokens(model, model.prefill("abc"), Sampling(), 20)))
    assert 101 not in picked.tolist()


@pytest.mark.parametrize("prompt", ["the", "an at the", " "])
def test_prompt_and_reply_are_the_text_of_all_ids(padded: Model, prompt: str, tmp_path: Path) -> None:
    """Also from a context that was kept, and in a second reply to it."""
    tokenizer = padded.tokenizer
    assert tokenizer is not None
    context = padded.prefill(prompt)
    save_context(context, padded, tmp_path / "state")
    before = list(tokenizer.encode(prompt.encode()))
    for place in (context, load_context(tmp_path / "state", padded)):
        replies: list[Reply] = []
        ids = [int(token) for token in decode_tokens(padded, place, Sampling(2.0, seed=3), 20)]
        ids = ids[: ids.index(tokenizer.end)] if tokenizer.end in ids else ids
        for _ in Writer(padded, Sampling(2.0, seed=3), 20).reply(place, replies):
            pass
        assert tokenizer.decode(before) + replies[0].text.encode() == tokenizer.decode([*before, *ids])
        later = padded.prefill(ids, place)
        assert later.last == (tuple([*before, *ids][-len(later.last[0]) :]),)


def test_a_stop_string_may_begin_with_the_first_space() -> None:
    tokenizer = spaced()
    ids = tokenizer.encode(b"an the at").tolist()
    reply = Reply(tokenizer, [" the"], ids[:1])
    assert "".join(map(reply.feed, ids[1:])) == "" and reply.ending == "stop"
