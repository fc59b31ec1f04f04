"""How often a training step passes over memory: bytes that operations read and write, and bytes kept for backward.

    python tools/benchmarks/passes.py ['[swa:128, mlstm]*2'] [--width 256] [--tokens 2048] [--precision fp32 bf16]
        [--by group|operation|place] [--cache 1048576]

A step of the local engine on a CPU, forward, backward and update, is run once under a dispatch mode, which sees every
operation of torch after autograd and autocast. Bytes are those of an operation's inputs and outputs; views and empty
tensors cost nothing. No time is measured, so that the figures are the same on every machine and whatever else runs:
they say what a CPU whose products are fast in bf16 has left to do. (So products in bf16 are computed in fp32 here,
which is faster where a CPU has no instructions for bf16.)

products: matrix products and fused attention. casts: copies from one type to another. copies: other copies. optimizer:
what `update` does. others: all else. Megabytes are given twice: all, and those of operations that touch more than
`--cache` bytes, whose operands do not stay in a core's cache. What runs in slices is only in the first.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import models
import torch
from measure import kept_bytes
from models import our_engine, our_step, some_tokens
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from hybridkit.data.batches import Batch

PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "addmv", "mv", "dot", "linear", "matmul", "convolution")
COPIES = ("copy_", "_to_copy", "clone", "cat", "stack", "_foreach_copy_", "index_select", "repeat")
FILLS = ("zeros_like", "new_zeros", "ones_like", "full_like", "zeros", "full")  # what they are given is not read
# What touches no memory, beside views: views in place among it.
FREE = ("empty", "new_empty", "_unsafe_view", "squeeze_", "unsqueeze_", "transpose_", "t_", "detach_", "as_strided_",
        "set_", "is_", "_local_scalar", "profiler", "prim")  # fmt: skip
OWN = ("blocks", "hybridkit", "hybridkit_blocks")  # folders whose lines `--by place` names


class Passes(TorchDispatchMode):
    """Calls and bytes, by what `key` makes of an operation's name; `large`: of those beyond `cache` bytes."""

    def __init__(self, by: str, cache: int) -> None:
        super().__init__()
        self._key, self._cache = KEYS[by], cache
        self.calls, self.bytes, self.large = Counter[str](), Counter[str](), Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = str(func).removeprefix("aten."), kwargs or {}
        base = name.split(".")[0]
        out = _in_fp32(func, args, kwargs) if base in PRODUCTS else func(*args, **kwargs)
        if not func.is_view and not name.startswith(FREE):
            own = list(tensors(out if base in FILLS else (args, kwargs, out)))
            if base in COPIES and len({t.dtype for t in own}) > 1:
                base = f"{base} (cast)"
            size, key = sum(map(touched, own)), self._key(base)
            self.calls[key] += 1
            self.bytes[key] += size
            self.large[key] += size if size > self._cache else 0
        return out


def _in_fp32(func: Any, args: Any, kwargs: Any) -> Any:
    """A product, in fp32 and rounded where it is one of bf16."""
    if not any(t.dtype == torch.bfloat16 for t in tensors((args, kwargs))):
        return func(*args, **kwargs)
    made = func(*tree_map(_wide, args), **tree_map(_wide, kwargs))
    return kwargs["out"].copy_(made) if "out" in kwargs else made.bfloat16()


def _wide(value: object) -> object:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value


def tensors(tree: Any) -> Iterator[Tensor]:
    """All tensors of the arguments or results of an operation."""
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def touched(t: Tensor) -> int:
    """Bytes of a tensor, those that an expanded dimension repeats counted once."""
    sizes = [size for size, stride in zip(t.shape, t.stride(), strict=True) if stride or size == 0]
    return torch.Size(sizes).numel() * t.element_size()


def group(name: str) -> str:
    """The group of an operation."""
    base = name.removesuffix(" (cast)")
    if base in PRODUCTS or "attention" in base:
        return "products"
    return "casts" if base != name else "copies" if base in COPIES else "others"


def place(name: str) -> str:
    """The line of this project that runs an operation, and its group; `autograd` in torch's own backward."""
    frame = sys._getframe(2)
    while frame.f_back is not None:
        path = Path(frame.f_code.co_filename)
        if any(part in OWN for part in path.parts):
            inner = "/".join(path.parts[-2:])
            if inner.endswith("engine.py"):
                return f"autograd {name}"
            return f"{inner}:{frame.f_lineno} {name}"
        frame = frame.f_back
    return name


KEYS: dict[str, Callable[[str], str]] = {"group": group, "operation": str, "place": place}


def measured(given: argparse.Namespace, precision: str) -> tuple[Passes, Passes, int]:
    """The passes of gradients and of the update, and the bytes kept for backward."""
    models.choose(precision)
    engine, ids = our_engine(given.pattern, given.width, "cpu"), some_tokens(1, given.tokens, "cpu")
    batch, windows = Batch(ids, ids.roll(-1, 1), None, 0), engine.model.plan.fixed_windows(None)
    gradients, update = Passes(given.by, given.cache), Passes(given.by, given.cache)
    with Passes("group", 0):
        our_step(engine, [ids])()  # a first step makes the optimizer's state
        weights = {p.untyped_storage().data_ptr() for m in (engine.model, engine.working) for p in m.parameters()}
        kept = kept_bytes(lambda: engine._loss(engine._objective, batch, windows), weights)
    with gradients:
        engine.gradients([batch], windows, given.tokens)
    with update:
        engine.update(models.LEARNING_RATE)
    return gradients, update, kept


def show(title: str, found: Passes, update: Passes, kept: int) -> None:
    """Print a table: calls and megabytes by group, operation or place."""
    for own, total in ((found.calls, update.calls), (found.bytes, update.bytes), (found.large, update.large)):
        own["optimizer"] = total.total()
    print(f"\n{title}\n{'':48} {'calls':>7} {'MB':>9} {'MB beyond the cache':>20}")
    for key, size in found.bytes.most_common():
        print(f"{key:48} {found.calls[key]:7,} {size / 1e6:9,.1f} {found.large[key] / 1e6:20,.1f}")
    totals = found.bytes.total() / 1e6, found.large.total() / 1e6
    print(f"{'all':48} {found.calls.total():7,} {totals[0]:9,.1f} {totals[1]:20,.1f}")
    print(f"kept for backward {kept / 1e6:,.1f} MB")


def main() -> None:
    """Print a table for each precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pattern", nargs="?", default="[swa:128, mlstm]*2")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--by", choices=KEYS, default="group")
    parser.add_argument("--cache", type=int, default=2**20, help="bytes")
    given = parser.parse_args()
    for precision in given.precision:
        title = f"{given.pattern}, width {given.width}, {given.tokens:,} tokens, {precision}"
        show(title, *measured(given, precision))


if __name__ == "__main__":
    main()
