"""`tokenizer: bytes`."""

from __future__ import annotations

from collections.abc import Iterable

from hybridkit.data.tokenizer import ByteTokenizer, Tokenizer, TokenizerSpec
from hybridkit.recipe.rules import CURRENT


class Bytes(TokenizerSpec):
    """A token a byte, and one that ends a document: 257."""

    def vocab(self, rules: int = CURRENT) -> int:
        return 257

    def make(self, documents: Iterable[bytes], rules: int = CURRENT) -> Tokenizer:
        return ByteTokenizer()
