"""Every shipped block keeps every law, in float64."""

from collections.abc import Callable

import pytest

from hybridkit import testing
from hybridkit.block import Block, Dims
from hybridkit.compile import compile_pattern

DIMS = Dims(width=32, heads=4, vocab=257)
BLOCKS = [
    "sa",
    "sa(kv_heads=2,qk_norm=true)",
    "sa(theta=null,head=6)",
    "swa:16",
    "swa(heads=2,kv_heads=1):stoch(4,24)",
    "mlstm",
    "mlstm(heads=2)",
    "ffn",
    "ffn(width=40)",
]


@pytest.mark.parametrize("law", testing.LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("text", BLOCKS)
def test_law(text: str, law: Callable[[Block, Dims], None]) -> None:
    plan = compile_pattern(text, width=DIMS.width, heads=DIMS.heads, vocab=DIMS.vocab, ffn=None)
    law(plan.entries[0].block, DIMS)
