"""The vocabulary: what a block, a window policy and a layer are, and what they promise each other.

Letters of shapes, here and in every block: B batch, T tokens of this call, D width, H heads.
Units, stated once for everything that counts cost: FLOPs are *forward*, of one sequence, 2 per multiply-add;
states are sized in bytes, parameters in elements.

A block file holds one public `Block` class, and a window file one public `Window` class; the file's name is its name
in a pattern. Neither needs anything of hybridkit but this module. The laws they keep are in `hybridkit.testing`.
"""

from hybridkit.block import packed
from hybridkit.block.assumed import assumed_device, assuming
from hybridkit.block.auxiliary import Auxiliary, record, recording
from hybridkit.block.block import Block, Dims, Entry, window_of
from hybridkit.block.from_attention import AttentionWeights, NoMapping, Start, set_to
from hybridkit.block.init import has_values, normal_, small_init_, wang_init_
from hybridkit.block.layer import Layer, StepFunction
from hybridkit.block.padding import (
    Linear,
    linear,
    pad_weight,
    padded_width,
    padding,
    product_flops,
    spare,
)
from hybridkit.block.sequence_parallel import SequenceParallel
from hybridkit.block.spec import ALL, Argument, Spec, Value, write_value
from hybridkit.block.state import State, clone_state, state_bytes, state_like
from hybridkit.block.window import (
    GivenWindow,
    TrainStep,
    Window,
    WindowLimit,
    WindowSize,
    meant_window,
    said_window,
    window_limit,
)
from hybridkit.system.choices import Count, NormPlacement
from hybridkit.system.notices import building

__all__ = [
    "ALL",
    "Argument",
    "AttentionWeights",
    "Auxiliary",
    "Block",
    "Count",
    "Dims",
    "Entry",
    "GivenWindow",
    "Layer",
    "Linear",
    "NoMapping",
    "NormPlacement",
    "SequenceParallel",
    "Spec",
    "Start",
    "State",
    "StepFunction",
    "TrainStep",
    "Value",
    "Window",
    "WindowLimit",
    "WindowSize",
    "assumed_device",
    "assuming",
    "building",
    "clone_state",
    "has_values",
    "linear",
    "meant_window",
    "normal_",
    "packed",
    "pad_weight",
    "padded_width",
    "padding",
    "product_flops",
    "record",
    "recording",
    "said_window",
    "set_to",
    "small_init_",
    "spare",
    "state_bytes",
    "state_like",
    "wang_init_",
    "window_limit",
    "window_of",
    "write_value",
]
