"""Initial weights that blocks share.

Large weights on a CPU are drawn in parts, by all threads at once: a 1.4B model takes one thread 20 s and more. Each
part has a generator of its own, which follows from one number of torch's, so that the threads' number changes nothing.

Tensors without values are left alone: torch would load its compiler to draw them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn

from hybridkit.block.block import Dims

PART = 1 << 20  # numbers; a weight of fewer is drawn by torch, as any other tensor


def normal_(weight: Tensor, std: float) -> None:
    """Fill with N(0, std^2)."""
    if has_values(weight) and not _in_parts(weight, lambda part, own: part.normal_(0, std, generator=own)):
        nn.init.normal_(weight, std=std)


def uniform_(weight: Tensor, bound: float) -> None:
    """Fill evenly from -bound to bound."""
    if has_values(weight) and not _in_parts(weight, lambda part, own: part.uniform_(-bound, bound, generator=own)):
        nn.init.uniform_(weight, -bound, bound)


def small_init_(weight: Tensor) -> None:
    """Fill with N(0, 2 / (5 fan_in)): for projections into a layer (Nguyen & Salazar, arXiv 1910.05895)."""
    normal_(weight, std=(2 / (5 * weight.shape[-1])) ** 0.5)


def wang_init_(weight: Tensor, dims: Dims) -> None:
    """Fill with N(0, (2 / (depth sqrt(width)))^2): for projections back onto the residual stream (GPT-J's)."""
    normal_(weight, std=2 / (dims.depth * dims.width**0.5))


def has_values(x: Tensor) -> bool:
    """False for fake and meta tensors, which have a shape alone."""
    return x.untyped_storage().device.type != "meta"


def _in_parts(weight: Tensor, draw: Callable[[Tensor, torch.Generator], object]) -> bool:
    """Fill a large weight on a CPU, part by part; False where it is none."""
    if weight.numel() < PART or weight.device.type != "cpu" or not weight.is_contiguous():
        return False
    parts = weight.detach().view(-1).split(PART)
    seeds = np.random.SeedSequence(int(torch.randint(2**63 - 1, (), device="cpu"))).generate_state(len(parts))

    def fill(part: Tensor, seed: np.uint32) -> None:
        with torch.inference_mode(part.is_inference()):  # a thread begins without it
            draw(part, torch.Generator().manual_seed(int(seed)))

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(fill, parts, seeds))
    return True
