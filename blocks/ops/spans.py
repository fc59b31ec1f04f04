"""How much of a sequence a chunkwise form takes at once."""

from torch import Tensor

ON_A_GPU = 2**25  # elements of a work tensor: 128 MiB of fp32, so that few launches cover a long sequence


def span_elements(x: Tensor, in_cache: int) -> int:
    """Elements of a work tensor at most: `in_cache`, what a CPU's cache holds, or what a GPU has room for."""
    return ON_A_GPU if x.is_cuda else in_cache
