"""Text as training data: `corpus.prepare` a source, then read it as `batches.Batches`."""
