"""`tokenizer: bytes`."""

from __future__ import annotations

from collections.abc import Iterable

from hybridkit.data.tokenizer import ByteTokenizer, Tokenizer, TokenizerSpec
from hybridkit.recipe.rules_version import CURRENT_RULES


class Bytes(TokenizerSpec):
    """A token a byte, and one that ends a document: 257."""

    def vocab(self, rules: int = CURRENT_RULES) -> int:
        return 257

    def make(self, documents: Iterable[bytes], rules: int = CURRENT_RULES) -> Tokenizer:
        return ByteTokenizer()
