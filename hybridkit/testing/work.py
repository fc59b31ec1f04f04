"""What a call executes, as torch dispatches it: FLOPs of products by torch's formulas, and elements of all else."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from hybridkit.block import Layer


class ExecutedWork(TorchDispatchMode):
    """Counts while it is on: `products`, those with a linear layer's weight in `linear`, `elements` read and written.

    The exact count is what every form needs at least. `products + elements` of code that computes the block is larger.
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.products = self.linear = self.elements = 0
        self._weights = {p.untyped_storage().data_ptr() for p in layer.parameters()}

    @property
    def total(self) -> int:
        """An upper bound of the FLOPs that the call needs."""
        return self.products + self.elements

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = FORMULAS.get(func._overloadpacket)
        if formula is not None:
            flops = formula(*args, **kwargs, out_val=out)
            self.products += flops
            if func._overloadpacket in LINEAR and any(self._is_weight(t) for t in tree_leaves((args, kwargs))):
                self.linear += flops
        elif not _is_view(func):
            self.elements += sum(t.numel() for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor))
        return out

    def _is_weight(self, t: object) -> bool:
        return isinstance(t, Tensor) and t.untyped_storage().data_ptr() in self._weights


def _is_view(func: Any) -> bool:
    """Whether an operation only makes a view."""
    return any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)


def _attention(query: Tensor, key: Tensor, value: Tensor, *args: object, **kwargs: object) -> int:
    """The CPU's own kernel, which torch's counter does not know; every query with every key."""
    (batch, heads, queries, width), keys = query.shape, key.shape[2]
    return 2 * batch * heads * queries * keys * (width + value.shape[-1])


FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
}


LINEAR = {getattr(torch.ops.aten, name) for name in ("mm", "addmm", "bmm", "baddbmm")}


def counted(run: Callable[[], object]) -> int:
    """FLOPs of the matrix products in a call, as torch's counter sees them."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()
