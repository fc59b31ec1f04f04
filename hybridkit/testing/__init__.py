"""The laws of blocks and windows as plain functions: authors of blocks and policies run them too.

    from hybridkit.testing import check_block, check_window
    check_block(MyBlock.read([]), Dims(width=32, heads=4, vocab=257))

Every check raises AssertionError and says what broke. Blocks are checked in float64, where a difference is a mistake,
not rounding; those of `ROUNDED_LAWS` also take `precision=BF16` or `AUTOCAST` (docs/blocks.md has the list).
"""

from collections.abc import Callable

from hybridkit.block import Block, Dims, state_bytes
from hybridkit.testing.attention import check_from_attention
from hybridkit.testing.cost import UnverifiedCost, check_cost, linear_flops, mask_pairs, warn_unverified
from hybridkit.testing.cost import _check_cost as _costs
from hybridkit.testing.gradients import check_gradients, check_lengths
from hybridkit.testing.layer_under_test import AUTOCAST, BF16, FLOAT64, TOLERANCE, Arithmetic, law_name
from hybridkit.testing.order import check_causality, check_documents
from hybridkit.testing.policy import check_window
from hybridkit.testing.purity import check_purity
from hybridkit.testing.rows import check_rows
from hybridkit.testing.sequence import check_decoder, check_split, check_step, check_windows
from hybridkit.testing.state import check_state
from hybridkit.testing.types import check_rounding, check_types
from hybridkit.testing.work import counted

Law = Callable[[Block, Dims], None]

ROUNDED_LAWS = (
    check_state,
    check_lengths,
    check_causality,
    check_documents,
    check_rows,
    check_purity,
    check_windows,
    check_decoder,
    check_step,
    check_split,
)
LAWS: tuple[Law, ...] = (  # quick first
    check_cost,
    check_types,
    check_from_attention,
    *ROUNDED_LAWS[:6],
    check_gradients,
    *ROUNDED_LAWS[6:],
)


def check_block(block: Block, dims: Dims) -> None:
    """Every law that holds for any block; small dims (width <= 64) make it quick.

    Raises AssertionError that names the law, the block and the shapes. Warns of UnverifiedCost, after all laws hold,
    for a mixer without a `cost_reference`.
    """
    for law in LAWS:
        (_costs if law is check_cost else law)(block, dims)
    warn_unverified(block, dims)


__all__ = [
    "AUTOCAST",
    "BF16",
    "FLOAT64",
    "LAWS",
    "ROUNDED_LAWS",
    "TOLERANCE",
    "Arithmetic",
    "Law",
    "UnverifiedCost",
    "check_block",
    "check_causality",
    "check_cost",
    "check_decoder",
    "check_documents",
    "check_from_attention",
    "check_gradients",
    "check_lengths",
    "check_purity",
    "check_rounding",
    "check_rows",
    "check_split",
    "check_state",
    "check_step",
    "check_types",
    "check_window",
    "check_windows",
    "counted",
    "law_name",
    "linear_flops",
    "mask_pairs",
    "state_bytes",
]
