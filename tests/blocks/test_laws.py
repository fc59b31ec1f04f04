"""Every shipped block keeps every law in float64, and those that rounding allows in bf16 and under autocast."""

from collections.abc import Callable

import pytest

from hybridkit import testing
from hybridkit.block import Block, Dims
from hybridkit.model.config import ModelConfig
from hybridkit.model.plan import compile_pattern

DIMS = Dims(width=32, heads=4, vocab=257)
VARIANTS = [
    "sa(heads=2,kv_heads=1,head=6,theta=null,qk_norm=true)",
    "swa(kv_heads=2,qk_norm=projection,rope=.5,gate=true,sinks=true,softcap=2,bias=true):stoch(4,40)",
    "ffn(width=7)",
    "gdn(heads=4,key_heads=2,head=6,value=5,conv=2,conv_bias=true,allow_neg_eigval=true,gate=sigmoid,start=qwen)",
    "mla(q_rank=12,rope_head=4)",
    "moe(6,2,10,2,sigmoid,factor=2,shared_gate=true,bias=true,act=gelu,correction=.1,groups=3,active_groups=2)",
]
MIXERS = [
    "sa",
    "swa:16",
    "mlstm(heads=2)",
    "conv(bias=true)",
    "gdn",
    "kda",
]
BLOCKS = [*MIXERS, "ffn", *(pytest.param(text, marks=pytest.mark.slow) for text in VARIANTS)]
ROUNDED = [
    "sa(heads=2,kv_heads=1,head=6,qk_norm=true)",
    "swa:16",
    "mlstm",
    "conv",
    "ffn",
]
PRECISIONS = [testing.BF16, testing.AUTOCAST]


def block(text: str) -> Block:
    return (
        compile_pattern(text, ModelConfig(width=DIMS.width, heads=DIMS.heads, vocab=DIMS.vocab, ffn=None))
        .entries[0]
        .block
    )


@pytest.mark.parametrize("law", testing.LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("text", BLOCKS)
def test_law(text: str, law: Callable[[Block, Dims], None]) -> None:
    law(block(text), DIMS)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS, ids=lambda precision: precision.name)
@pytest.mark.parametrize("law", (*testing.ROUNDED_LAWS, testing.check_rounding), ids=lambda law: law.__name__)
@pytest.mark.parametrize("text", ROUNDED)
def test_law_in_bf16(text: str, law: Callable[..., None], precision: testing.Arithmetic) -> None:
    law(block(text), DIMS, precision)


@pytest.mark.parametrize("text", MIXERS)
def test_a_mixer_names_what_its_cost_is_held_to_and_lets_gradients_through_its_state(text: str) -> None:
    assert block(text).cost_reference(DIMS, 5) is not None and block(text).differentiable_state
