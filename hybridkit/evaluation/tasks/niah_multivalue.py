"""RULER's niah_multivalue."""

from hybridkit.evaluation.ruler import NeedleTask


class NiahMultivalue(NeedleTask):
    """Four numbers of one key, in essays; all are asked for."""

    haystack = "essay"
    key = "words"
    value = "numbers"
    values = 4
