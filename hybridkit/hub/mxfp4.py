"""MXFP4 (Open Compute Project, Microscaling Formats 1.0): numbers of 4 bits, of which 32 share a scale.

    x = 2^(s - 127) v,   v one of the 16 values of E2M1 (a sign, two bits of exponent, one of mantissa)

E experts, R rows, G groups of 32 numbers along a row. Files hold blocks (E, R, G, 16), two numbers a byte, the lower
four bits first, and scales (E, R, G), both bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hybridkit.hub.weight_rules import Rule

GROUP = 32  # numbers with one scale
BIAS = 127  # of a scale's exponent
_HALF = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
VALUES = (*_HALF, *(-value for value in _HALF))  # by their 4 bits


def dequantized(blocks: Tensor, scales: Tensor) -> Tensor:
    """The numbers (E, 32 G, R) in bf16, as transformers lays them out; exact, since both factors are short.

    Raises ValueError for shapes that do not fit.
    """
    if blocks.shape != (*scales.shape, GROUP // 2):
        raise ValueError(f"blocks {tuple(blocks.shape)} and scales {tuple(scales.shape)}")
    table = torch.tensor(VALUES, dtype=torch.bfloat16, device=blocks.device)
    pairs = torch.stack([table[(blocks & 15).long()], table[(blocks >> 4).long()]], -1)  # (E, R, G, 16, 2)
    scaled = torch.ldexp(pairs.flatten(-2), scales[..., None].int() - BIAS).to(torch.bfloat16)
    return scaled.flatten(-2).mT.contiguous()


def packed(rule: Rule) -> Rule:
    """The rule of one tensor of experts, for files that hold blocks and scales in its place."""
    (name,) = rule.theirs

    def to_theirs(tensors: list[Tensor]) -> list[Tensor]:
        """The shapes alone, for messages: nothing here quantizes."""
        (whole,) = rule.to_theirs(tensors)  # (E, 32 G, R)
        shape = (whole.shape[0], whole.shape[2], whole.shape[1] // GROUP)
        return [torch.empty(one, dtype=torch.uint8, device="meta") for one in ((*shape, GROUP // 2), shape)]

    return Rule(
        rule.ours, (f"{name}_blocks", f"{name}_scales"), lambda t: rule.to_ours([dequantized(*t)]), to_theirs, True
    )
