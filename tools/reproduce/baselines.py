"""Bits per byte of a run and of simple compressors on the same held-out text.

    python tools/reproduce/baselines.py runs/quickstart

The bigram model counts byte pairs of the training text. xz compresses the held-out text alone, and then after the end
of the training text; the second figure counts only the bytes that the held-out text adds.
"""

import argparse
import lzma
from pathlib import Path

import numpy as np

import hybridkit
from hybridkit.data.batches import cover
from hybridkit.data.corpus import Tokens, prepare_corpus
from hybridkit.evaluation.perplexity import perplexity
from hybridkit.evaluation.scoring import ReadOptions

SMOOTHING = 0.1  # added to every pair's count
HEAD_START = 8 << 20  # bytes; the window of xz's default preset


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    model = hybridkit.load(parser.parse_args().run)
    assert model.recipe is not None
    data = model.recipe.data
    corpus = prepare_corpus(data.source, data.tokenizer, field=data.field, validation=data.validation)
    train, held_out = (side.tokenizer.decode(side.ids) for side in (corpus.train, corpus.validation))
    held_out_rows = cover(corpus.validation, data.sequence, batch=8)
    rows = {
        "this model": perplexity(model, held_out_rows, ReadOptions()).to_json()["bits_per_byte"],
        "bigram of bytes": bigram_bits(documents(corpus.train), documents(corpus.validation)),
        "xz -9e": 8 * len(lzma.compress(held_out, preset=9 | lzma.PRESET_EXTREME)) / len(held_out),
        "xz, after training text": primed_bits(train[-HEAD_START:], held_out),
    }
    print(f"bits per byte of {len(held_out):,} held-out bytes ({data.source})")
    for name, bits in rows.items():
        print(f"  {name:<24} {bits:.3f}")


def documents(side: Tokens) -> list[np.ndarray]:
    """The bytes of each document, with 256 for its end, as the model predicts them."""
    texts = (side.tokenizer.decode(side.document(index)) for index in range(len(side.documents) - 1))
    return [np.append(np.frombuffer(text, np.uint8).astype(np.int64), 256) for text in texts]


def bigram_bits(train: list[np.ndarray], held_out: list[np.ndarray]) -> float:
    """Bits per byte of P(byte | previous byte); the first byte of a document is no target, as for the model."""
    counts = np.full((256, 257), SMOOTHING)
    for text in train:
        np.add.at(counts, (text[:-1], text[1:]), 1)
    bits = -np.log2(counts / counts.sum(axis=1, keepdims=True))
    total = sum(bits[text[:-1], text[1:]].sum() for text in held_out)
    return float(total) / sum(len(text) - 2 for text in held_out)


def primed_bits(before: bytes, text: bytes) -> float:
    """Bits per byte that `text` adds when xz compresses it after `before`."""
    alone, both = (len(lzma.compress(part, preset=9)) for part in (before, before + text))
    return 8 * (both - alone) / len(text)


if __name__ == "__main__":
    main()
