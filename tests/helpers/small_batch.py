"""A plan of two mixers and a batch of random tokens, for engines."""

import torch

import hybridkit
from hybridkit.data.batches import IGNORED, Batch
from hybridkit.model.plan import Plan

PLAN: Plan = hybridkit.build("[swa:4, mlstm]", width=16, heads=2).plan
WINDOWS = [4, None, None, None]


def batch(rows: int = 5, tokens: int = 12) -> Batch:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(257, (rows, tokens + 1), generator=draw)
    targets = ids[:, 1:].masked_fill(torch.rand(rows, tokens, generator=draw) < 0.3, IGNORED)
    targets[1] = IGNORED  # a row that counts nothing
    return Batch(ids[:, :-1], targets, torch.rand(rows, tokens, generator=draw) < 0.1, 40)
