"""The precisions that a user may name. This file imports no torch, so that help and errors of the verbs need none."""

from __future__ import annotations

from typing import Literal

PrecisionChoice = Literal["auto", "fp32", "bf16", "fp64"]
