"""Values that a user may choose from, where several folders name the same ones: each list stands here once.

This file imports no torch, so that help and errors of the verbs need none.
"""

from __future__ import annotations

from typing import Literal

PrecisionChoice = Literal["auto", "fp32", "bf16", "fp64"]
DeviceChoice = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "bf16", "fp64"]
NormPlacement = Literal["pre", "post", "both", "none"]  # where an entry of the stack is normalized
Count = Literal["exact", "paper", "hardware"]  # of FLOPs (docs/flops.md)
Documents = Literal["reset", "flow"]  # whether states and attention stop at the end of a document
Scoring = Literal["ruler", "forced"]  # of needles (docs/evaluation.md)
XAxis = Literal["tokens", "flops", "seconds"]  # of training curves
