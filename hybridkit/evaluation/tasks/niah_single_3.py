"""RULER's niah_single_3."""

from hybridkit.evaluation.ruler import NeedleTask


class NiahSingle3(NeedleTask):
    """One UUID, in essays."""

    haystack = "essay"
    key = "words"
    value = "uuids"
