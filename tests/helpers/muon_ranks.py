"""Run by two ranks: Muon's losses on stage 0 of ZeRO, on the local engine, and on the local engine from a checkpoint of
the ranks; rank 0 writes them as JSON."""

import json
import sys
from pathlib import Path

import torch
from ranks import PLAN, losses, settings

from hybridkit.training.engine import open_engine

OUT, HALF = Path(sys.argv[1]), 6
torch.set_num_threads(1)
ranks = open_engine(PLAN, settings(zero=0, optimizer="muon"))
found = losses(ranks, PLAN, settings(zero=0, optimizer="muon"), range(HALF))
folder = OUT.with_suffix("")
if ranks.rank == 0:
    folder.mkdir()
ranks.all_reduce_max(0)
ranks.save().write(folder)
found += losses(ranks, PLAN, settings(zero=0, optimizer="muon"), range(HALF, 2 * HALF))
local = settings("local", optimizer="muon")
alone, resumed = open_engine(PLAN, local), open_engine(PLAN, local)
result = {"ranks": found, "local": losses(alone, PLAN, local, range(2 * HALF))}
ranks.all_reduce_max(0)
resumed.load(folder)
result["resumed"] = losses(resumed, PLAN, local, range(HALF, 2 * HALF))
if ranks.rank == 0:
    OUT.write_text(json.dumps(result))
