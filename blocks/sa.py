"""Self-attention over all earlier positions: `sa`, `sa(kv_heads=4)`, `sa(theta=null)` without positions.

Its state grows with every token. `sa:stoch(128,all)` sees everything but on the steps of training that draw 128.
"""

from typing import ClassVar

from hybridkit.block import Window
from hybridkit_blocks.ops.attention import AttentionBlock


class SelfAttention(AttentionBlock):
    """Causal softmax attention over everything so far; in training, where a policy is given, over its window."""

    has_window: ClassVar[bool] = True
    sees_all: ClassVar[bool] = True
    window: Window | None = None
