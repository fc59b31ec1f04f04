"""The tokenizer that `data.tokenizer` names, and the one that a folder holds."""

from __future__ import annotations

from pathlib import Path

from hybridkit.data.named import read_named
from hybridkit.data.tokenizer import SAVED, TOKENIZER, ByteTokenizer, Tokenizer, TokenizerSpec
from hybridkit.recipe.rules_version import CURRENT_RULES
from hybridkit.registry.registry import REGISTRY, Registry
from hybridkit.runs.run import Run
from hybridkit.system.errors import UserError

_FILE = "file"  # the tokenizer of a text that names no other


def choose_tokenizer(text: str, registry: Registry = REGISTRY) -> TokenizerSpec:
    """What `data.tokenizer` says: a name of the registry, else the path of a tokenizer.json or of its folder.

    Raises UserError where there is none such.
    """
    found: TokenizerSpec = read_named(TOKENIZER, text, registry) or registry.get(TOKENIZER, _FILE).of(text, registry)
    return found


def tokenizer_vocab(text: str, vocab: int | None = None, registry: Registry = REGISTRY) -> int:
    """The vocabulary of a model for the tokenizer that `text` names: its own, or a larger `vocab`, which pads.

    Reads no corpus. Raises UserError for a smaller `vocab`.
    """
    least = choose_tokenizer(text, registry).vocab()
    if vocab is not None and vocab < least:
        raise UserError(f"model.vocab: {vocab} is less than the {least} tokens of data.tokenizer {text}")
    return vocab or least


def load_tokenizer(folder: Path, rules: int = CURRENT_RULES, registry: Registry = REGISTRY) -> Tokenizer:
    """The tokenizer that was saved in `folder`, as `rules` have it; `bytes` if none was.

    Raises UserError for a damaged file.
    """
    if not (folder / SAVED).exists():
        return ByteTokenizer()
    made: Tokenizer = registry.get(TOKENIZER, _FILE).at(str(folder / SAVED), registry).make((), rules)
    return made


def run_tokenizer(run: Run, rules: int | None = None, registry: Registry = REGISTRY) -> Tokenizer:
    """A run's own copy of its tokenizer, read by this version of the rules (None: the current one).

    `registry` knows its plug-ins.

    Raises UserError where it is damaged, or not the recorded one.
    """
    run.check_exists()
    found, manifest = load_tokenizer(run.path, rules or CURRENT_RULES, registry), run.record()
    wanted = manifest.tokenizer if manifest else None
    if wanted not in (None, found.digest):
        now = f"has sha256 {found.digest}" if (run.path / SAVED).exists() else "is missing"
        raise UserError(
            f"{run.path / SAVED} is not the tokenizer that the run was trained with: it {now},"
            f" and the run's record says {wanted}; put it back"
        )
    return found
