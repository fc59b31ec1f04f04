"""RULER's niah_multikey_1."""

from hybridkit.evaluation.ruler import NeedleTask


class NiahMultikey1(NeedleTask):
    """Four keys with a number each, in essays; one is asked for."""

    haystack = "essay"
    key = "words"
    value = "numbers"
    keys = 4
