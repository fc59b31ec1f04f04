"""One entry of the stack: its norms, its layers side by side, and the residual sum.

B batch, T tokens, D width. With RMS norms `pre` and `post` where the placement has them, factors i_b and o_b of the
branches' blocks (`in_scale`, `out_scale`) and s of the model (`residual_scale`), an entry computes

    x + s post(sum over branches b of o_b layer_b(i_b pre(x)))

    pre   x + layer(norm(x))                    arXiv 2002.04745
    post  x + norm(layer(x))                    arXiv 2501.00656, section 3.2
    both  x + norm(layer(norm(x)))              arXiv 2408.00118, section 2
    none  x + layer(x)

With `branches: mean_norm`, branches side by side are not summed but averaged, each behind a norm of its own, as in
Hymba (arXiv 2411.13676, section 2.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from hybridkit.block import Dims, Entry, GivenWindow, Layer, NormPlacement, State, StepFunction
from hybridkit.model.config import ModelConfig
from hybridkit.model.norm import RMSNorm

BranchWindows = Sequence[GivenWindow | Tensor]  # one a branch
States = Sequence[State]  # one a branch
EntryStep = Callable[[Tensor, States], tuple[Tensor, States]]  # one token (B, 1, D); may change the states in place

BEFORE: tuple[NormPlacement, ...] = ("pre", "both")
AFTER: tuple[NormPlacement, ...] = ("post", "both")


def is_reserved(name: str) -> bool:
    """Whether no block can have this name, under which its layer stands in an entry: the entry has it for itself."""
    return hasattr(Residual, name) or name in ("norm", "post_norm", "layers", "training")


def placement(entry: Entry, config: ModelConfig) -> NormPlacement:
    """Where an entry is normalized."""
    return entry.norm or config.norm


def own_norms(entry: Entry, config: ModelConfig) -> bool:
    """Whether each branch of an entry has a norm of its own behind it."""
    return len(entry.branches) > 1 and config.branches == "mean_norm"


def num_norms(entry: Entry, config: ModelConfig) -> int:
    """The norms of an entry, each with as many weights as the model is wide."""
    place = placement(entry, config)
    return (place in BEFORE) + (place in AFTER) + own_norms(entry, config) * len(entry.branches)


class Residual(nn.Module):
    """An entry. Names of weights show the block: `swa.q.weight` for one, `0.swa.q.weight` for one of several."""

    def __init__(self, entry: Entry, dims: Dims, config: ModelConfig) -> None:
        super().__init__()
        place, own = placement(entry, config), own_norms(entry, config)
        self.norm = _norm(place in BEFORE, dims)
        self.post_norm = _norm(place in AFTER, dims)
        self._scale, share = config.residual_scale, len(entry.branches) if own else 1
        self._scales = [(block.in_scale, block.out_scale / share) for block in entry.branches]
        self._paths = list[tuple[str, str]]()  # of every layer: the module that holds it, and its name there
        # Beside the modules under their names: compiled code that asked for a name would serve its block alone.
        self.layers, self._own_norms = list[Layer](), list[nn.Module]()  # of its branches
        for index, block in enumerate(entry.branches):
            several = len(entry.branches) > 1
            holder = nn.Module() if several else self
            self.layers.append(block.build(dims))
            self._own_norms.append(_norm(own, dims))
            holder.add_module(block.name(), self.layers[-1])
            if several:
                holder.add_module("norm", self._own_norms[-1])
                self.add_module(str(index), holder)
            self._paths.append((str(index) if several else "", block.name()))

    @property
    def layer(self) -> Layer:
        """The layer of an entry with one branch."""
        (layer,) = self.layers
        return layer

    def replace_layer(self, branch: int, layer: Layer) -> None:
        """Put another layer in a branch's place."""
        holder, name = self._paths[branch]
        self.get_submodule(holder).add_module(name, layer)
        self.layers[branch] = layer

    def forward(
        self, x: Tensor, states: States | None, windows: BranchWindows | None, document_starts: Tensor | None
    ) -> tuple[Tensor, list[State]]:
        """Outputs (B, T, D), and the states after them, one a branch."""
        inputs, nothing = self._inputs(x), [None] * len(self.layers)
        made = [
            layer(h, state, window=window, document_starts=document_starts)
            for layer, h, state, window in zip(self.layers, inputs, states or nothing, windows or nothing, strict=True)
        ]
        return self._sum(x, [y for y, _ in made]), [state for _, state in made]

    def step(self, x: Tensor, states: States) -> tuple[Tensor, list[State]]:
        """One token (B, 1, D); the states may be changed in place."""
        return self._step([layer.step for layer in self.layers], x, states)

    def _step(self, steps: Sequence[StepFunction], x: Tensor, states: States) -> tuple[Tensor, list[State]]:
        made = [step(h, state) for step, h, state in zip(steps, self._inputs(x), states, strict=True)]
        return self._sum(x, [y for y, _ in made]), [state for _, state in made]

    def decoder(self, rows: int) -> EntryStep:
        """`step` with a copy of the current weights in a layout that is fast for `rows`."""
        if isinstance(self.norm, nn.RMSNorm) and isinstance(self.post_norm, nn.Identity) and self._unscaled:
            step = self.layer.decoder(self.norm, rows)

            def run(x: Tensor, states: States) -> tuple[Tensor, States]:
                x, state = step(x, states[0])
                return x, (state,)

            return run
        return partial(self._step, [layer.decoder(None, rows) for layer in self.layers])

    @property
    def _unscaled(self) -> bool:
        """Whether the entry is one layer without any factor."""
        return self._scale == 1 and self._scales == [(1, 1)]

    def _inputs(self, x: Tensor) -> list[Tensor]:
        """What each branch's layer reads."""
        h = self.norm(x)
        return [_times(h, scale) for scale, _ in self._scales]

    def _sum(self, x: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """The entry's output: x plus the scaled and normalized sum of its layers' outputs."""
        parts = zip(outputs, self._scales, self._own_norms, strict=True)
        scaled = [_times(norm(y), scale) for y, (_, scale), norm in parts]
        y: Tensor = self.post_norm(sum(scaled[1:], scaled[0]))
        return x + _times(y, self._scale)


def _norm(wanted: bool, dims: Dims) -> nn.Module:
    return RMSNorm(dims.width, eps=dims.norm_eps) if wanted else nn.Identity()


def _times(x: Tensor, scale: float) -> Tensor:
    return x if scale == 1 else x * scale
