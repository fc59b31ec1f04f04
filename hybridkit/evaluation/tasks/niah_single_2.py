"""RULER's niah_single_2."""

from hybridkit.evaluation.ruler import NeedleTask


class NiahSingle2(NeedleTask):
    """One number, in essays."""

    haystack = "essay"
    key = "words"
    value = "numbers"
