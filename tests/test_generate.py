"""Text as it comes: whole characters, stop strings, ends."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridkit.data.bpe import train
from hybridkit.data.tokenizers import Bytes, Tokenizer
from hybridkit.errors import UserError
from hybridkit.generate import Reply, Stops


def fed(tokenizer: Tokenizer, ids: Sequence[int], stops: Sequence[str] = ()) -> tuple[Reply, list[str]]:
    """A reply that took all ids in, and the pieces it gave out."""
    reply = Reply(tokenizer, stops)
    return reply, [*(reply.feed(token) for token in ids), reply.close("tokens")]


@pytest.fixture(scope="module", params=["bytes", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Bytes() if request.param == "bytes" else train([b"ein paar kurze Worte, ein paar mehr " * 9], 280)


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
    reply, pieces = fed(Bytes(), list(b"abc\nUse"), ["\nUser:"])
    assert (reply.text, reply.ending) == ("abc\nUse", "tokens")
    assert pieces[:4] == ["a", "b", "c", ""] and pieces[-1] == "\nUse"
    assert fed(Bytes(), [*b"abc\nUse", 256], ["\nUser:"])[0].text == "abc\nUse"


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
