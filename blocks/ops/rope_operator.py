"""The angles of `Rope` as an operator, which torch.compile does not look into.

It would compute the float64 sines anew wherever they are read: for every head, of queries and of keys, both ways.
"""

import torch
from torch import Tensor

from hybridkit_blocks.ops.rope_angles import cos_sin

cos_sin_operator = torch.library.custom_op(
    "hybridkit::rope_angles",
    cos_sin,
    mutates_args=(),
    schema="(Tensor positions, Tensor speeds, float magnitude, ScalarType dtype) -> (Tensor, Tensor)",
)


@cos_sin_operator.register_fake
def _(positions: Tensor, speeds: Tensor, magnitude: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    shape = *positions.shape, 1, len(speeds)
    return speeds.new_empty(shape, dtype=dtype), speeds.new_empty(shape, dtype=dtype)
