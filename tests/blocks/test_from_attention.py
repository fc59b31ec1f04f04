"""What mixers take from an attention: each with a rule accepts one that fits it, and keeps the law with it."""

import pytest

from hybridkit.block import Block, Dims, NoMapping
from hybridkit.model.config import ModelConfig
from hybridkit.model.plan import compile_pattern
from hybridkit.testing import check_from_attention
from hybridkit.testing.attention import offered

DIMS = Dims(width=32, heads=4, vocab=257)


def block(text: str) -> Block:
    return compile_pattern(text, ModelConfig(width=32, heads=4, vocab=257, ffn=None)).entries[0].block


FITTING = [
    ("sa", (4, 2, 1)),
    ("sa(kv_heads=2,gate=true,sinks=true,qk_norm=true,bias=true)", (2, 1)),
    ("swa(kv_heads=1):4", (1,)),
    ("mlstm", (4, 2, 1)),
    ("gdn(head=8,value=8,conv_bias=true)", (4, 2, 1)),
    ("gdn(head=8,value=8,gate=none,start=qwen)", (4, 1)),
    ("kda", (4, 2, 1)),
    ("kda(lower_bound=-5,low_rank=false,gate_bias=true)", (4, 1)),
    ("mamba2(head=8,state=8,groups=4,bias=true)", (4, 2, 1)),
]


@pytest.mark.parametrize(("text", "shared"), FITTING)
def test_a_mixer_of_the_attentions_sizes_takes_its_weights(text: str, shared: tuple[int, ...]) -> None:
    for kv_heads in shared:
        taken = {start.source for start in block(text).from_attention(offered(4, kv_heads, 8, 32), DIMS)}
        assert taken >= {"q.weight", "k.weight", "v.weight", "out.weight"}
    check_from_attention(block(text), DIMS)


@pytest.mark.parametrize("text", ["conv", "rglru", "mla", "ffn", "moe(2,1,8)"])
def test_a_block_without_a_rule_says_so(text: str) -> None:
    with pytest.raises(NoMapping, match="has no mapping from attention"):
        block(text).from_attention(offered(4, 4, 8, 32), DIMS)


def test_an_attention_that_a_mixer_writes_fits_it() -> None:
    """The arguments that a refusal names are those that are accepted."""
    for text in (
        "gdn",
        "gdn(heads=2)",
        "mamba2",
        "kda(heads=2,value=3)",
        "mlstm(heads=2)",
        "swa(heads=2):4",
        "sa(head=6)",
    ):
        with pytest.raises(ValueError, match="; write ") as refusal:
            block(text).from_attention(offered(4, 2, 8, 32), DIMS)
        right = str(refusal.value).rpartition("; write ")[2]
        assert block(right).from_attention(offered(4, 2, 8, 32), DIMS)
