"""The shipped laws as parameters of a test, and layers whose weights shut no gate."""

import pytest
import torch
from torch import nn

from hybridkit import testing
from hybridkit.block import Block, Dims, Layer


def _name(law: object) -> str:
    return getattr(law, "__name__", str(law))


every_law = pytest.mark.parametrize("law", testing.LAWS, ids=_name)
every_bf16_law = pytest.mark.parametrize("law", (*testing.ROUNDED_LAWS, testing.check_rounding), ids=_name)
both_precisions = pytest.mark.parametrize("precision", [testing.BF16, testing.AUTOCAST], ids=lambda found: found.name)


def random_layer(block: Block, dims: Dims) -> Layer:
    """The built block in float64, all weights random: fresh ones of some kinds add nothing, or leave gates shut.

    What the test draws afterwards follows from the same seed.
    """
    torch.manual_seed(0)
    layer = block.build(dims).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return layer
