"""Text as training data: `corpus.prepare_corpus` a source, then read it as `batches.Batches`."""
