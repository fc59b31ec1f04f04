"""Sliding-window attention: `swa:128`, `swa:stoch(128,2048,p=.5)`, `swa(kv_heads=4):1024`.

A window of w sees the w most recent positions, the token's own included; its state stops growing at w - 1 positions.
"""

from typing import ClassVar

from hybridkit.block import Window
from hybridkit_blocks.ops.attention import AttentionBlock


class SlidingWindowAttention(AttentionBlock):
    """Causal softmax attention over the most recent positions."""

    has_window: ClassVar[bool] = True
    window: Window
