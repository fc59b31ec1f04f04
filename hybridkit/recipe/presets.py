"""Published ways to turn a transformer into a hybrid, as the stages of `convert.stages`.

Steps are the published tokens divided by the published tokens of a step. What a paper leaves open is `train`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_SHORT = 512
_LONG = 16384

# arXiv 2505.03005: 100M tokens, then 250M to 700M (here 500M), then 100M.
_RADLADS = (
    {"loss": "hidden", "steps": 6100, "sequence": _SHORT, "batch_tokens": 32 * _SHORT, "lr": 1e-3, "min_lr": 1e-5},
    {
        "loss": "kl", "steps": 10200, "sequence": _SHORT, "batch_tokens": 96 * _SHORT, "lr": 1e-5,
        "schedule": "constant",
    },
    {
        "loss": "ce", "steps": 2030, "sequence": _LONG, "batch_tokens": 3 * _LONG, "lr": 1e-5, "schedule": "constant",
    },
)  # fmt: skip

# arXiv 2601.22156: 320M tokens, then 1B, then 1B; AdamW without decay, 50 steps of warm-up.
_HALO = (
    {
        "loss": "hidden", "steps": 20000, "sequence": _SHORT, "batch_tokens": 32 * _SHORT, "lr": 1e-3, "min_lr": 1e-5,
        "warmup": 50 / 20000, "weight_decay": 0.0,
    },
    {
        "loss": "kl", "steps": 20300, "sequence": _SHORT, "batch_tokens": 96 * _SHORT, "lr": 1e-4, "min_lr": 1e-5,
        "warmup": 50 / 20300, "weight_decay": 0.0,
    },
    {
        "loss": "ce", "steps": 480, "sequence": _LONG, "batch_tokens": 128 * _LONG, "lr": 1e-5, "schedule": "constant",
        "warmup": 50 / 480, "weight_decay": 0.0,
    },
)  # fmt: skip

# arXiv 2603.15590: 655M tokens, then the 1.3B of its base setting.
_XLSTM = (
    {"loss": "hidden", "steps": 2500, "sequence": 4096, "batch_tokens": 64 * 4096, "lr": 1e-2},
    {
        "loss": {"ce": 0.9, "kl": 0.1}, "top_k": 256, "steps": 5000, "sequence": 4096, "batch_tokens": 64 * 4096,
        "lr": 1e-5, "weight_decay": 0.1,
    },
)  # fmt: skip

PRESETS: Mapping[str, Sequence[Mapping[str, Any]]] = {"radlads": _RADLADS, "halo": _HALO, "xlstm": _XLSTM}
