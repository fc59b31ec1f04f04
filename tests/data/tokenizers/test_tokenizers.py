"""Tokenizers: nothing is lost on the way to ids and back, every byte is counted, streamed text is whole text."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from hybridkit.data.tokenizer import ByteTokenizer, Tokenizer
from hybridkit.data.tokenizer_choice import choose_tokenizer, load_tokenizer, tokenizer_vocab
from hybridkit.data.tokenizers._bpe import ByteLevel, MeasuredTokenizer, read_tokenizer, train_bpe
from hybridkit.system.errors import UserError

TEXT = [f"def f{n}(x):\r\n    return x ** {n}  # grüße, 世界 {chr(0x1F600 + n)}\n" for n in range(40)]
ODD = [
    "",
    " ",
    "\n\n\n",
    "\0",
    "a\u0301 vs \u00e1",
    "\ufeffBOM",
    "🏳️‍🌈" * 3,
    "<|endoftext|></s>",
    "\ufffd",
    "x" * 300_000,
]


def bpe_file(path: Path, **settings: object) -> Path:
    """A byte-level tokenizer as a model's authors would publish it, with added tokens and a template."""
    made = json.loads(train_bpe([text.encode() for text in TEXT], 400).library.to_str())
    added = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    made["added_tokens"].append({"id": 400, "content": "<|user|>", **added})
    path.write_text(json.dumps({**made, **settings}))
    return path


def metaspace_file(path: Path) -> Path:
    """A tokenizer of SentencePiece's kind: it normalizes, puts a space before the text, falls back to bytes."""
    library = Library(models.BPE(byte_fallback=True, unk_token="<unk>"))
    library.normalizer = normalizers.NFKC()
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    names = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    library.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=500, special_tokens=names, show_progress=False))
    path.write_text(library.to_str())
    return path


def words_file(path: Path) -> Path:
    """A tokenizer that knows two words and drops what lies between words."""
    library = Library(models.WordLevel({"[UNK]": 0, "return": 1, "x": 2}, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    path.write_text(library.to_str())
    return path


@pytest.fixture(params=["bytes", "trained", "file"])
def exact(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    if request.param == "bytes":
        return ByteTokenizer()
    return (
        read_tokenizer(bpe_file(tmp_path / "t.json"))
        if request.param == "file"
        else train_bpe(map(str.encode, TEXT), 350)
    )


def streamed(tokenizer: Tokenizer, ids: list[int]) -> str:
    stream = tokenizer.stream()
    return "".join([stream.feed(token) for token in ids] + [stream.close()])


@pytest.mark.slow
def test_any_bytes_come_back(exact: Tokenizer) -> None:
    rng = random.Random(0)
    for raw in [
        *map(str.encode, TEXT + ODD),
        *(rng.randbytes(rng.randrange(200)) for _ in range(200)),
        bytes(range(256)),
    ]:
        ids, lengths = exact.measure(raw)
        assert exact.decode(ids) == raw
        assert lengths.sum() == len(raw) and ids.dtype == exact.dtype
        assert exact.end not in ids and (ids < exact.vocab).all()
        assert [len(exact.decode([token])) for token in ids[:50]] == lengths[:50].tolist()


def test_ends_and_padding_have_no_text(exact: Tokenizer) -> None:
    ids = [*exact.encode(b"a").tolist(), exact.end, exact.vocab + 5, *exact.encode(b"b").tolist()]
    assert exact.decode(ids) == b"ab" and streamed(exact, ids) == "ab"
    assert exact.lengths is not None and exact.lengths[exact.end] == 0


def test_streams_give_whole_characters_and_all_text(exact: Tokenizer) -> None:
    rng = random.Random(1)
    whole = exact.encode("".join(TEXT + ODD[:-1]).encode()).tolist()
    for _ in range(30):
        begin = rng.randrange(len(whole))  # may lie inside a character
        ids = whole[begin : rng.randrange(begin, len(whole) + 1)]
        assert streamed(exact, ids) == exact.decode(ids).decode("utf-8", "replace")
        noise = [rng.randrange(exact.vocab + 3) for _ in range(40)]
        assert streamed(exact, noise) == exact.decode(noise).decode("utf-8", "replace")
    stream = exact.stream()
    said = [stream.feed(token) for token in exact.encode("世\N{GRINNING FACE}é".encode()).tolist()]
    assert "".join(said) == "世\N{GRINNING FACE}é" and not any("\ufffd" in text for text in said)


def test_training_is_deterministic_and_bounded() -> None:
    raw = [text.encode() for text in TEXT]
    one, two = train_bpe(raw, 350), train_bpe(raw, 350)
    assert one.library.to_str() == two.library.to_str() and one.vocab == 350
    assert train_bpe(raw, 257).vocab == 257
    assert len(one.encode(b"".join(raw))) < 0.6 * len(b"".join(raw))
    assert train_bpe([b"ab"], 4000).vocab < 300  # there is nothing more to merge


def test_saved_tokenizers_come_back(exact: Tokenizer, tmp_path: Path) -> None:
    train_bpe([b"another was here before"], 300).save(tmp_path)
    exact.save(tmp_path)
    again = load_tokenizer(tmp_path)
    raw = "".join(TEXT).encode()
    assert (again.vocab, again.end) == (exact.vocab, exact.end)
    np.testing.assert_array_equal(again.encode(raw), exact.encode(raw))


def test_a_byte_level_file_gives_the_ids_of_the_library(tmp_path: Path) -> None:
    tokenizer = read_tokenizer(bpe_file(tmp_path / "t.json"))
    library = Library.from_file(str(tmp_path / "t.json"))
    assert isinstance(tokenizer, ByteLevel)
    for text in TEXT:
        assert tokenizer.encode(text.encode()).tolist() == library.encode(text, add_special_tokens=False).ids
    assert tokenizer.vocab == 401 and tokenizer.end == library.token_to_id("<|endoftext|>")
    assert tokenizer.decode([400]) == b"<|user|>"


def test_an_added_token_in_byte_letters_is_what_the_library_says(tmp_path: Path) -> None:
    """Added tokens stand in the text as they are, the model's own in byte letters: `Ġx` is both."""
    path = bpe_file(tmp_path / "t.json")
    made = json.loads(path.read_text("utf-8"))
    own = made["model"]["vocab"]["Ġx"]
    made["added_tokens"].append({**made["added_tokens"][-1], "id": own, "content": "Ġx", "special": False})
    path.write_text(json.dumps(made), encoding="utf-8")
    tokenizer, library = read_tokenizer(path), Library.from_file(str(path))
    for text in (" x", "Ġx", "def f(x): return x ** 2 Ġx\n"):
        ids, lengths = tokenizer.measure(text.encode())
        assert ids.tolist() == library.encode(text, add_special_tokens=False).ids and own in ids
        assert lengths.sum() == len(text.encode())
        assert tokenizer.decode(ids) == library.decode(ids.tolist(), skip_special_tokens=False).encode()


@pytest.mark.parametrize("make", [metaspace_file, words_file])
def test_other_files_count_every_byte(tmp_path: Path, make: object) -> None:
    tokenizer = read_tokenizer(make(tmp_path / "t.json"))  # type: ignore[operator]
    assert isinstance(tokenizer, MeasuredTokenizer)
    library = Library.from_file(str(tmp_path / "t.json"))
    for text in [*TEXT, "  x  return  ", *ODD[4:7], "ﬁ ½ Å" * 9]:
        ids, lengths = tokenizer.measure(text.encode())
        assert ids.tolist() == library.encode(text, add_special_tokens=False).ids
        assert lengths.sum() == len(text.encode()) and (lengths >= 0).all()
    assert tokenizer.measure(b"")[0].size == 0
    assert tokenizer.decode([*ids, tokenizer.end]) == library.decode(ids.tolist(), skip_special_tokens=False).encode()


def test_other_files_stream_whole_text(tmp_path: Path) -> None:
    tokenizer, rng = read_tokenizer(metaspace_file(tmp_path / "t.json")), random.Random(2)
    ids = tokenizer.encode("".join(TEXT).encode()).tolist()
    assert tokenizer.decode(ids).decode() == "".join(TEXT)
    for _ in range(20):
        begin = rng.randrange(len(ids))
        some = ids[begin : begin + rng.randrange(60)]
        assert streamed(tokenizer, some) == tokenizer.decode(some).decode()
    stream = tokenizer.stream()
    assert not any("\ufffd" in stream.feed(token) for token in tokenizer.encode("wörd 龍🐉!".encode()).tolist())


def test_the_end_is_a_special_token_or_a_new_one(tmp_path: Path) -> None:
    assert read_tokenizer(metaspace_file(tmp_path / "a.json")).end == 1
    words = read_tokenizer(words_file(tmp_path / "b.json"))
    assert (words.end, words.vocab) == (3, 4)
    plain = bpe_file(tmp_path / "c.json", added_tokens=[])  # here <|endoftext|> is a word like any other
    assert read_tokenizer(plain).end == 400 and read_tokenizer(plain).vocab == 401


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({}, ByteLevel),
        ({"truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}}, ByteLevel),
        ({"normalizer": {"type": "NFC"}}, MeasuredTokenizer),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}}, MeasuredTokenizer),
    ],
)
def test_what_a_file_says_beyond_the_text_is_left_out(tmp_path: Path, change: dict[str, object], kind: type) -> None:
    tokenizer = read_tokenizer(bpe_file(tmp_path / "t.json", **change))
    raw = "".join(TEXT).encode()
    assert type(tokenizer) is kind and tokenizer.measure(raw)[1].sum() == len(raw)
    assert tokenizer.decode(tokenizer.encode(raw)).strip() == raw.strip()


def test_bad_tokenizers(tmp_path: Path) -> None:
    for content in (b"", b"{}", b"[1]", b'{"model": 3}', b"\xff\xfe", b'{"model": {"type": "BPE", "vocab": {}}}'):
        (tmp_path / "t.json").write_bytes(content)
        with pytest.raises(UserError, match=r"t\.json: not a tokenizer\.json"):
            choose_tokenizer(str(tmp_path / "t.json")).vocab()
    with pytest.raises(UserError, match="did you mean `bytes`"):
        choose_tokenizer("byte")
    with pytest.raises(UserError, match="V is 257"):
        choose_tokenizer("train(256)")
    for text in ("", "train(4096", "a\0b", "x" * 5000, "/dev/zero"):
        with pytest.raises(UserError, match="is not bytes"):
            choose_tokenizer(text)


def test_the_vocabulary_is_known_without_a_corpus(tmp_path: Path) -> None:
    assert tokenizer_vocab("bytes") == 257 and tokenizer_vocab("bytes", 320) == 320
    assert tokenizer_vocab("train(4k)") == 4096
    bpe_file(tmp_path / "tokenizer.json")
    assert tokenizer_vocab(str(tmp_path)) == 401
    with pytest.raises(UserError, match=r"model\.vocab: 256 is less than the 257"):
        tokenizer_vocab("bytes", 256)


def test_the_library_is_the_version_that_identities_name() -> None:
    assert tokenizers.__version__ in choose_tokenizer("train(300)").identity()
