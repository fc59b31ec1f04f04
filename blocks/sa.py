"""Self-attention over all earlier positions: `sa`, `sa(kv_heads=4)`, `sa(theta=null)` without positions.

Its state grows with every token.
"""

from hybridkit_blocks.ops.attention import AttentionBlock


class SelfAttention(AttentionBlock):
    """Causal softmax attention over everything so far."""
