"""Table 1 of arXiv 2509.24552, forward FLOPs per token at 1.4B: the paper's numbers and ours.

python tools/reproduce/table1.py
"""

import argparse
from collections.abc import Iterator
from typing import NamedTuple

from hybridkit.cost.flops import Case, cost
from hybridkit.model.loading import plan
from hybridkit.runs.run import load_recipe

CONTEXT = 16384
PAPER = {  # recipe: 1e9 FLOPs per token
    "transformer-1.4b": 6.174,
    "xlstm-1.4b": 2.978,
    "swa-128-1.4b": 3.029,
    "swax-128-1.4b": 3.004,
    "swax-256-1.4b": 3.016,
    "swax-512-1.4b": 3.041,
    "swax-1024-1.4b": 3.092,
    "swax-2048-1.4b": 3.192,
}


class Cell(NamedTuple):
    """A cell of the table, in 1e9 FLOPs per token."""

    recipe: str
    paper: float
    ours: float

    @property
    def difference(self) -> float:
        """(ours - paper) / paper."""
        return self.ours / self.paper - 1


def cells() -> Iterator[Cell]:
    """The eight cells; ours are counted from the shipped recipes by the paper's convention."""
    for name, paper in PAPER.items():
        found = cost(plan(load_recipe(name)), Case(CONTEXT, count="paper"))
        yield Cell(name, paper, float(found.forward) / 1e9)


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(f"{'recipe':<18}{'paper':>8}{'ours':>10}{'difference':>12}")
    for cell in cells():
        print(f"{cell.recipe:<18}{cell.paper:>8.3f}{cell.ours:>10.4f}{cell.difference:>+12.3%}")


if __name__ == "__main__":
    main()
