"""The exact count compared with two independent ones, fvcore's and torch's, on a small instance of the same pattern.

Both see matrix products, and neither sees all of them: they can check this package's count, but not replace it.
"""

import warnings
from collections import Counter
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hybridkit.block import Block, Dims
from hybridkit.cost.flops import head_flops
from hybridkit.model.model import Head
from hybridkit.model.plan import Plan, layer_parameters

TOKENS, WIDTH, VOCAB = 96, 256, 256
BLIND_SPOTS = (
    "fvcore counts multiply-adds, hence x 2. It follows a trace, and so misses scaled_dot_product_attention and what"
    " runs inside an autograd function of its own: attention pairs and the mLSTM cell are absent there.",
    "torch counts the products that run, as `hardware` does: masked tiles and padding are in it. It misses masked"
    " scaled_dot_product_attention on a CPU, and products that are written as sums of elementwise ones.",
)


class Check(NamedTuple):
    """FLOPs of one sequence of `TOKENS` through one layer, and how often the pattern has it."""

    layer: str
    exact: int
    hardware: int
    fvcore: int | None  # None: its trace does not get through the layer
    torch: int
    times: int


def verify(plan: Plan) -> list[Check]:
    """One row for every distinct layer and one for the head, on a small instance."""
    small = scaled_down(plan)
    dims, x = small.dims, torch.randn(1, TOKENS, small.dims.width)
    head, logits = Head(dims.width, dims.vocab, None), TOKENS * head_flops(small)
    return [
        *(_check(block, dims, x, times) for block, times in Counter(b.block for b in small.branches).items()),
        Check("head", logits, logits, _doubled(head, x), _products(head, x), 1),
    ]


def _check(block: Block, dims: Dims, x: Tensor, times: int) -> Check:
    layer = _Outputs(block.build(dims))
    exact, hardware = block.flops(dims, TOKENS), block.flops(dims, TOKENS, count="hardware")
    return Check(str(block), exact, hardware, _doubled(layer, x), _products(layer, x), times)


def scaled_down(plan: Plan) -> Plan:
    """The same pattern with a small vocabulary and the first of some widths from `WIDTH` on that its blocks can have;
    its own if none of those."""
    widths = *range(WIDTH, 2 * WIDTH), *range(2 * WIDTH, plan.config.width, WIDTH // 4), plan.config.width
    sizes = (replace(plan, config=replace(plan.config, width=width, vocab=VOCAB)) for width in widths)
    return next(small for small in sizes if _fits(small))


def _fits(plan: Plan) -> bool:
    try:
        return all(layer_parameters(block, plan.dims) for block in {branch.block for branch in plan.branches})
    except ValueError:
        return False


class _Outputs(nn.Module):
    """A layer without its state, which a trace cannot return."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


def _products(module: nn.Module, x: Tensor) -> int:
    """FLOPs by torch's counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    return counter.get_total_flops()


def _doubled(module: nn.Module, x: Tensor) -> int | None:
    """FLOPs by fvcore: twice its multiply-adds; None where a trace of the layer fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit, on which fvcore stands, is deprecated
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(module, x).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.tracer_warnings("none").set_op_handle("aten::layer_norm", _nothing)  # as the exact count has it
        try:
            return 2 * analysis.total()
        except Exception:  # of whatever kind: a layer may do anything, and this is one of three counts
            return None


def _nothing(inputs: object, outputs: object) -> int:
    """The cost of an operation that the exact count leaves out."""
    return 0
