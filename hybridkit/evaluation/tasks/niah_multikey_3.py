"""RULER's niah_multikey_3."""

from hybridkit.evaluation.ruler import NeedleTask


class NiahMultikey3(NeedleTask):
    """One UUID under a UUID, among needles with other keys."""

    haystack = "needle"
    key = "uuids"
    value = "uuids"
