"""A tokenizer.json, or a folder that holds one: every `data.tokenizer` that names no other tokenizer."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from pydantic import PrivateAttr

from hybridkit.data.named import read_named
from hybridkit.data.tokenizer import MARK, SAVED, TOKENIZER, Tokenizer, TokenizerSpec
from hybridkit.data.tokenizers._bpe import VERSION, read_tokenizer
from hybridkit.data.tokenizers._json_file import library_errors, read_tokenizer_text
from hybridkit.recipe.rules_version import CURRENT_RULES
from hybridkit.registry.registry import REGISTRY, Registry
from hybridkit.system.errors import UserError, nearest


class TokenizerFile(TokenizerSpec):
    """The tokenizer of a file, as the `tokenizers` library runs it."""

    path: str
    _read: dict[int, Tokenizer] = PrivateAttr(default_factory=dict)  # by rules
    _registry: Registry = PrivateAttr(default=REGISTRY)  # knows the plug-in, if one wrote the file

    @classmethod
    def parse(cls, text: str) -> None:
        """None: a path that begins with this word is a path like any other (`of`)."""

    @classmethod
    def of(cls, text: str, registry: Registry = REGISTRY) -> Self:
        """The file of a path. Raises UserError where there is none, with the nearest name of a tokenizer."""
        path = os.path.expanduser(text)
        path = os.path.join(path, SAVED) if os.path.isdir(path) else path
        if not os.path.isfile(path):
            known = [name for name in registry.names(TOKENIZER) if name != cls.name()]
            names = ["train(4096)" if name == "train" else name for name in known]
            hint = f"; did you mean `{name}`?" if (name := nearest(text, names)) else ""
            raise UserError(
                f"data.tokenizer: {text[:200]!r} is not bytes, train(V) or the path of a tokenizer.json{hint}"
            )
        return cls.at(path, registry)

    @classmethod
    def at(cls, path: str, registry: Registry) -> Self:
        """The tokenizer of a file that exists. `registry` knows the plug-in, if one wrote the file."""
        made = cls(path=path)
        made._registry = registry
        return made

    def vocab(self, rules: int = CURRENT_RULES) -> int:
        return self.make((), rules).vocab

    def identity(self, rules: int = CURRENT_RULES) -> str:
        return f"{self.make((), rules).digest} {VERSION}"

    def make(self, documents: Iterable[bytes], rules: int = CURRENT_RULES) -> Tokenizer:
        if rules not in self._read:
            file = Path(self.path)
            self._read[rules] = _written(file, rules, self._registry) or read_tokenizer(file, rules)
        return self._read[rules]


def _written(path: Path, rules: int, registry: Registry) -> Tokenizer | None:
    """The tokenizer of a file that a plug-in's tokenizer wrote (`Tokenizer.saved`); None for other files.

    Raises UserError where the file is damaged, or the plug-in is not here.
    """
    with library_errors(f"{path}: not a tokenizer.json that can be read"):
        text = read_tokenizer_text(path)
        if not text.startswith(json.dumps({MARK: ""})[:-4]):
            return None
        said = json.loads(text)
        name, state = str(said[MARK]), said["state"]
    spec: TokenizerSpec | None = read_named(TOKENIZER, name, registry)
    if spec is None:
        raise UserError(f"{path}: its tokenizer {name} is not here; name the plug-in's file with --plugin")
    return spec.restore(state, rules)
