"""RULER's niah_single_1."""

from hybridkit.evaluation.ruler import NeedleTask


class NiahSingle1(NeedleTask):
    """One number, in a repeated line of noise."""

    haystack = "noise"
    key = "words"
    value = "numbers"
