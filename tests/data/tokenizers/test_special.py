"""For every kind of tokenizer: text stays text, parts have the tokens of the whole, a reply goes on from its prompt."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Library

from hybridkit.data.tokenizer import ByteTokenizer, Tokenizer
from hybridkit.data.tokenizers import _bpe as bpe
from hybridkit.data.tokenizers import _parts as parts
from hybridkit.data.tokenizers._bpe import read_tokenizer

SPECIAL = ["<unk>", "<s>", "</s>", "<eos>", "[SEP]", "[MASK]", "<|endoftext|>", "<0x41>", "<0x0A>", "##s"]
TEXT = [
    "the cat sat on the mat, the end. 世界 naïve\n",
    "return x ** 2  # grüße </s> <eos>\n",
    "[SEP] a b c < / > | \n",
]
SPACE = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)
LETTERS = sorted(set("".join(TEXT).replace(" ", "▁")))
BYTES = [f"<0x{value:02X}>" for value in range(256)]


def saved(library: Library, path: Path, special: list[str], change: dict[str, Any] | None = None) -> Tokenizer:
    library.add_special_tokens([name for name in special if library.token_to_id(name) is not None])
    made = json.loads(library.to_str())
    made["model"] |= change or {}
    (path / "tokenizer.json").write_text(json.dumps(made))
    return read_tokenizer(path / "tokenizer.json")


def unigram(path: Path) -> Tokenizer:
    """As SentencePiece files are: every special token is a piece, and bytes are a fallback."""
    pieces = [*SPECIAL[:7], *BYTES, *LETTERS, "the", "▁the", "▁cat", "end"]
    library = Library(models.Unigram([(piece, -1 - i / 100) for i, piece in enumerate(pieces)], 0, True))
    library.pre_tokenizer, library.decoder = pre_tokenizers.Metaspace(), SPACE
    return saved(library, path, SPECIAL[:7])


def unigram_folded(path: Path) -> Tokenizer:
    """NFKC and lower case make special tokens of text that does not spell them yet."""
    pieces = ["<unk>", "</s>", "<eos>", *LETTERS, "the"]
    library = Library(models.Unigram([(piece, -2.0) for piece in pieces], 0))
    library.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Prepend("▁")])
    return saved(library, path, ["<unk>", "</s>"])


def llama(path: Path) -> Tokenizer:
    """BPE over the whole text as a single word, with a space before it, falling back to bytes."""
    library = Library(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    names = ["<unk>", "<s>", "</s>", *BYTES]
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=420, special_tokens=names, show_progress=False))
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made = json.loads(library.to_str()) | {"pre_tokenizer": None}
    library = Library.from_str(json.dumps(made))
    library.decoder = SPACE
    return saved(library, path, ["<unk>", "<s>", "</s>"], {"ignore_merges": True})


def merged(path: Path) -> Tokenizer:
    """BPE whose merges lead to the special token."""
    names = ["<", "/", "s", ">", "</", "</s", "</s>", "x</s>", "x", "<unk>"]
    merges = [("<", "/"), ("</", "s"), ("</s", ">"), ("x", "</s>")]
    library = Library(models.BPE({name: i for i, name in enumerate(names)}, merges, unk_token="<unk>"))
    return saved(library, path, ["</s>"])


def words(path: Path) -> Tokenizer:
    vocab = {name: i for i, name in enumerate([*SPECIAL[:6], "the", "cat"])}
    library = Library(models.WordLevel(vocab, unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return saved(library, path, SPECIAL[:4])


def ends_unknown(path: Path) -> Tokenizer:
    """Here `</s>` stands for unknown words, so it cannot also end a document."""
    library = Library(models.WordLevel({"</s>": 0, "the": 1}, unk_token="</s>"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return saved(library, path, ["</s>"])


def pieces(path: Path) -> Tokenizer:
    vocab = {name: i for i, name in enumerate(["[UNK]", "[SEP]", "[EOS]", "##s", "the", "##e", *LETTERS])}
    library = Library(models.WordPiece(vocab, unk_token="[UNK]"))
    library.pre_tokenizer, library.decoder = pre_tokenizers.WhitespaceSplit(), decoders.WordPiece()
    return saved(library, path, ["[SEP]", "[EOS]", "[UNK]"])


def nfc(path: Path) -> Tokenizer:
    """A byte-level file with a normalizer, and words that are looked up whole."""
    library = Library.from_str(bpe.train_bpe([text.encode() for text in TEXT], 300).library.to_str())
    library.normalizer = normalizers.NFC()
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
    return saved(library, path, ["<|endoftext|>"], {"ignore_merges": True})


def trained(path: Path) -> Tokenizer:
    return bpe.train_bpe([text.encode() for text in TEXT], 300)


def digits(path: Path) -> Tokenizer:
    """Byte-level BPE with digits in groups of three from the right, as newer models cut them."""
    library = Library.from_str(bpe.train_bpe([text.encode() for text in TEXT], 300).library.to_str())
    groups = pre_tokenizers.Split(Regex(r"\d{1,3}(?=(\d{3})*\b)|\s+|\p{L}+"), "isolated")
    library.pre_tokenizer = pre_tokenizers.Sequence([groups, pre_tokenizers.ByteLevel(False, use_regex=False)])
    return saved(library, path, ["<|endoftext|>"])


KINDS = [
    unigram,
    unigram_folded,
    llama,
    merged,
    words,
    ends_unknown,
    pieces,
    nfc,
    trained,
    digits,
    lambda _: ByteTokenizer(),
]
LOSSLESS = {unigram, llama, trained, digits, KINDS[-1]}


@pytest.fixture(scope="module", params=KINDS, ids=[kind.__name__ for kind in KINDS])
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Tokenizer]:
    return request.param, request.param(tmp_path_factory.mktemp("tokenizer"))


spelled = st.sampled_from([*SPECIAL, "＜/s＞", "</S>", "<EOS>", "[EOS]", "x</s>", " ", "\n", "the", "<", "/s>"])
documents = st.lists(spelled | st.text(max_size=3), max_size=8).map("".join)


@settings(max_examples=30, deadline=None)
@given(documents)
def test_no_text_gives_the_end(kind: tuple[Any, Tokenizer], text: str) -> None:
    make, tokenizer = kind
    ids, lengths = tokenizer.measure(text.encode())
    assert tokenizer.end not in ids and (ids < tokenizer.vocab).all() and tokenizer.rows[ids].all()
    assert not len(ids) or lengths.sum() == len(text.encode())
    if make in LOSSLESS:
        spaced = text.removeprefix(" ") if make is unigram else text  # Metaspace adds no second space before a text
        assert tokenizer.decode(ids) == spaced.encode()


def test_special_tokens_keep_their_ids(kind: tuple[Any, Tokenizer]) -> None:
    """Text that spells nothing special has the ids that the library gives it."""
    _, tokenizer = kind
    if isinstance(tokenizer, bpe.ByteLevel | bpe.MeasuredTokenizer):
        for text in ("the cat sat", "x = 2", "世界 naïve the"):
            assert (
                tokenizer.encode(text.encode()).tolist() == tokenizer.library.encode(text, add_special_tokens=False).ids
            )


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.sampled_from([*TEXT, "x", " " * 9, "\n\n", "12345", "e\u0301", "the", "\r\n"]), max_size=60), st.data()
)
def test_parts_have_the_tokens_of_the_whole(kind: tuple[Any, Tokenizer], some: list[str], data: st.DataObject) -> None:
    _, tokenizer = kind
    if isinstance(tokenizer, ByteTokenizer):
        return
    text = "".join(piece * data.draw(st.integers(1, 4)) for piece in some)
    encode, window = tokenizer._encoded, data.draw(st.sampled_from([120, 200, 301]))  # type: ignore[union-attr]
    found = parts.encode_parts(encode, text, window, window // 3 * 2 | 1)
    assert [token for part in found for token in part.ids.tolist()] == encode(text).ids
    assert [end for part in found for end in part.ends.tolist()] == [end for _, end in encode(text).offsets]


def test_a_long_document_has_no_space_where_it_was_cut(kind: tuple[Any, Tokenizer]) -> None:
    make, tokenizer = kind
    if make in (unigram, llama, nfc):
        text = ("the cat sat on the mat, " * 12_000)[: parts.WINDOW + 900]  # no line ends
        ids, lengths = tokenizer.measure(text.encode())
        assert tokenizer.decode(ids).strip() == text.encode().strip() and lengths.sum() == len(text)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.sampled_from([*TEXT, " the", "日本語 🦊🏽", "\ufffd", "  "]), min_size=1, max_size=3).map("".join),
    st.data(),
)
def test_a_reply_goes_on_from_its_prompt(kind: tuple[Any, Tokenizer], text: str, data: st.DataObject) -> None:
    """The prompt's text, without a character that is not whole yet, and the reply are the text of all ids."""
    _, tokenizer = kind
    ids = tokenizer.encode(text.encode()).tolist()
    cut, last = sorted(data.draw(st.tuples(*[st.integers(0, len(ids))] * 2)))
    ids = ids[:last]
    said, reply = tokenizer.decode(ids[:cut]), tokenizer.stream(ids[:cut])
    try:
        prompt = said.decode()
    except UnicodeDecodeError as error:
        prompt = said[: error.start].decode()
    told = prompt + "".join(map(reply.feed, ids[cut:])) + reply.close()
    assert told == tokenizer.decode(ids).decode("utf-8", "replace")


def test_names_of_bytes_are_text_even_where_they_are_added_tokens(tmp_path: Path) -> None:
    unigram(tmp_path)
    made = json.loads((tmp_path / "tokenizer.json").read_text())
    added = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=False)
    made["added_tokens"].append({"id": 7 + 0x41, "content": "<0x41>", **added})
    (tmp_path / "tokenizer.json").write_text(json.dumps(made))
    tokenizer = read_tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer.decode(tokenizer.encode(b"a<0x41>A")) == b"a<0x41>A"


def test_an_older_run_keeps_its_tokens(tmp_path: Path) -> None:
    unigram(tmp_path)
    old, new = (read_tokenizer(tmp_path / "tokenizer.json", rules) for rules in (1, 2))
    text = b"the end<|endoftext|> the"
    assert old.end in old.encode(text) and new.end not in new.encode(text)
    assert old.end == new.end and np.array_equal(old.encode(b"the cat"), new.encode(b"the cat"))
