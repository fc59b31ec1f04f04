"""Text as training data: `prepare` a corpus, then read it as `Batches` (hybridkit.data.batches, which needs torch)."""

from hybridkit.data.corpus import Corpus, Tokens, prepare
from hybridkit.data.tokenizers.base import Stream, Tokenizer, load_tokenizer, tokenizer_vocab

__all__ = ["Corpus", "Stream", "Tokenizer", "Tokens", "load_tokenizer", "prepare", "tokenizer_vocab"]
