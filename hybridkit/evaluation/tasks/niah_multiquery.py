"""RULER's niah_multiquery."""

from hybridkit.evaluation.ruler import NeedleTask


class NiahMultiquery(NeedleTask):
    """Four keys with a number each, in essays; all are asked for."""

    haystack = "essay"
    key = "words"
    value = "numbers"
    keys = 4
    queries = 4
