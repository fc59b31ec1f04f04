"""Models and ids for tests: small enough for any machine, and the same every time."""

import torch
from torch import Tensor

import hybridkit
from hybridkit.model.model import Model


def tiny(pattern: str, dtype: torch.dtype = torch.float64, seed: int = 0, *, width: int = 32, heads: int = 4) -> Model:
    """A model whose every path carries a signal: fresh weights of some blocks leave gates shut."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = hybridkit.build(pattern, width=width, heads=heads).to(dtype)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return model


def some_ids(tokens: int, rows: int = 1, seed: int = 1) -> Tensor:
    return torch.randint(257, (rows, tokens), generator=torch.Generator().manual_seed(seed))
