"""`tokenizer: train(V)`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Self

from hybridkit.data.tokenizer import Tokenizer, TokenizerSpec
from hybridkit.recipe.rules_version import CURRENT_RULES
from hybridkit.system.errors import UserError

_LEAST, _MOST = 257, 2**20  # tokens: the least is 256 byte values and the end of a document


class TrainedTokenizer(TokenizerSpec):
    """Byte-level BPE of at most V tokens, trained on the corpus."""

    size: int

    @classmethod
    def parse(cls, text: str) -> Self | None:
        found = re.fullmatch(r"train\(\s*(\d{1,9})(k?)\s*\)", text)
        if not found:
            return None
        size = int(found[1]) * (1024 if found[2] else 1)
        if not _LEAST <= size <= _MOST:
            raise UserError(f"data.tokenizer: {text} is out of range: V is {_LEAST} (bytes and end) to {_MOST}")
        return cls(size=size)

    def vocab(self, rules: int = CURRENT_RULES) -> int:
        return self.size

    def identity(self, rules: int = CURRENT_RULES) -> str:
        from hybridkit.data.tokenizers._bpe import VERSION

        return f"train({self.size}) {VERSION}"

    def make(self, documents: Iterable[bytes], rules: int = CURRENT_RULES) -> Tokenizer:
        from hybridkit.data.tokenizers._bpe import train_bpe  # slow to import

        return train_bpe(documents, self.size, rules)
