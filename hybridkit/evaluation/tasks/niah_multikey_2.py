"""RULER's niah_multikey_2."""

from hybridkit.evaluation.ruler import NeedleTask


class NiahMultikey2(NeedleTask):
    """One number, among needles with other keys."""

    haystack = "needle"
    key = "words"
    value = "numbers"
