"""Families whose layers are a mixer and a feed-forward network: the table of names, and fields that most share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from hybridkit.block import Block
from hybridkit.hub.family import CannotSay
from hybridkit.hub.fields import Fields
from hybridkit.hub.transformers_class import TransformersClass
from hybridkit.hub.weight_rules import Rule, TensorFunction
from hybridkit.model.model import Model
from hybridkit.model.plan import Plan
from hybridkit.runs.weights import weights_of


class Joined(NamedTuple):
    """Weights of a block, by their names in it, that are other tensors in their files."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    to_ours: TensorFunction
    to_theirs: TensorFunction


class Part(NamedTuple):
    """A block in their files: its module, the names of ours in it (`q` to `q_proj`), and tensors that differ."""

    module: str
    names: Mapping[str, str]
    joined: tuple[Joined, ...] = ()


def taps(ours: str, theirs: str) -> Joined:
    """A depthwise convolution: ours (C, k), theirs (C, 1, k)."""
    return Joined((ours,), (theirs,), lambda t: [t[0].squeeze(1)], lambda t: [t[0].unsqueeze(1)])


def from_zero(tensors: list[Tensor]) -> list[Tensor]:
    """Weights w of a norm that multiplies by 1 + w, as ours, which multiply; in fp32, where that is exact."""
    return [1 + tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors]


def to_zero(tensors: list[Tensor]) -> list[Tensor]:
    """The inverse of `from_zero`."""
    return [tensor - 1 for tensor in tensors]


class Layered(TransformersClass):
    """Each layer is a mixer and the FFN behind it, with a norm before each, unless a subclass says otherwise."""

    body: ClassVar[str] = "model"
    embedding: ClassVar[str] = "model.embed_tokens.weight"
    last_norm: ClassVar[str] = "model.norm.weight"
    layer: ClassVar[str] = "model.layers"
    mixer_norms: ClassVar[Mapping[str, str]] = {"norm": "input_layernorm"}  # of an entry that mixes
    ffn_norms: ClassVar[Mapping[str, str]] = {"norm": "post_attention_layernorm"}
    one_plus: ClassVar[tuple[str, ...]] = ()  # norms that multiply by 1 + weight: `last`, `norm`, `block.q_norm` ...

    def parts(self, plan: Plan, block: Block) -> Part:
        """How a block stands in their files. Raises CannotSay for one that has no place there."""
        raise NotImplementedError

    def place(self, plan: Plan, index: int) -> int:
        """The number of the layer that an entry belongs to: by default, a mixer begins one."""
        return sum(entry.is_mixer for entry in plan.entries[: index + 1]) - 1

    def rules(self, plan: Plan) -> list[Rule]:
        with torch.device("meta"):
            own = weights_of(Model(plan))
        found = [
            Rule(("embedding.weight",), (self.embedding,)),
            self._norm("last", "norm.weight", self.last_norm),
            *([] if self.tied(plan) else [Rule(("head.weight",), (self.head,))]),
        ]
        for index, entry in enumerate(plan.entries):
            ours, layer = f"layers.{index}", f"{self.layer}.{self.place(plan, index)}"
            inside = [name.removeprefix(f"{ours}.") for name in own if name.startswith(f"{ours}.")]
            norms = self.mixer_norms if entry.is_mixer else self.ffn_norms
            for name in inside:
                if (holder := name.partition(".")[0]) in norms:
                    found.append(self._norm(holder, f"{ours}.{name}", f"{layer}.{norms[holder]}.weight"))
            for place, block in enumerate(entry.branches):
                prefix = f"{place}.{block.name()}." if len(entry.branches) > 1 else f"{block.name()}."
                own_names = [name.removeprefix(prefix) for name in inside if name.startswith(prefix)]
                found += self._block(self.parts(plan, block.resolved(plan.dims)), own_names, f"{ours}.{prefix}", layer)
        return found

    def _block(self, part: Part, names: list[str], ours: str, layer: str) -> list[Rule]:
        theirs = f"{layer}.{part.module}." if part.module else f"{layer}."
        joined = [one for one in part.joined if set(one.ours) <= set(names)]
        found = [
            Rule(tuple(ours + n for n in one.ours), tuple(theirs + n for n in one.theirs), one.to_ours, one.to_theirs)
            for one in joined
        ]
        for name in names:
            if not any(name in one.ours for one in joined):
                module, dot, rest = name.rpartition(".")
                module, rest = (module, dot + rest) if dot else (rest, "")
                found.append(self._norm(f"block.{module}", ours + name, f"{theirs}{part.names[module]}{rest}"))
        return found

    def _norm(self, name: str, ours: str, theirs: str) -> Rule:
        offset = (from_zero, to_zero) if name in self.one_plus else ()
        return Rule((ours,), (theirs,), *offset)


def model_options(fields: Fields, width: int, heads: int, eps: str = "rms_norm_eps") -> dict[str, Any]:
    """The options of a recipe's `model:` section that all these classes say alike."""
    return {
        "width": width,
        "heads": heads,
        "vocab": fields.whole("vocab_size"),
        "norm_eps": fields.number(eps),
        **tie(fields),
    }


def tie(fields: Fields) -> dict[str, Any]:
    """Whether embedding and head are one weight; these classes then do not scale it as input."""
    tied = fields.switch("tie_word_embeddings")
    return {"tie": tied, "embedding_scale": 1.0 if tied else None}


def sizes(plan: Plan, tied: bool, layers: int, eps: str = "rms_norm_eps") -> dict[str, Any]:
    """The same options as fields of config.json."""
    return {
        "vocab_size": plan.dims.vocab,
        "hidden_size": plan.dims.width,
        "num_hidden_layers": layers,
        eps: plan.config.norm_eps,
        "tie_word_embeddings": tied,
    }


def mixers(plan: Plan, *names: str) -> list[Block]:
    """The mixers of a stack, with all sizes written out. Raises CannotSay for others, and for blocks side by side."""
    return _blocks(plan, names, mixing=True)


def ffns(plan: Plan, *names: str) -> list[Block]:
    """The other blocks."""
    return _blocks(plan, names, mixing=False)


def _blocks(plan: Plan, names: tuple[str, ...], *, mixing: bool) -> list[Block]:
    found = []
    for index, entry in enumerate(plan.entries):
        if len(entry.branches) > 1:
            raise CannotSay(f"entry {index} has blocks side by side")
        if entry.block.is_mixer == mixing:
            if entry.block.name() not in names:
                raise CannotSay(f"entry {index} is {entry.block.name()}, and not {' or '.join(names)}")
            found.append(entry.block.resolved(plan.dims))
    if not found:
        raise CannotSay(f"there is no {' or '.join(names)}")
    return found


def first(blocks: list[Block], *names: str) -> Block:
    """The first block of one of these kinds. Raises CannotSay where there is none."""
    for block in blocks:
        if block.name() in names:
            return block
    raise CannotSay(f"there is no {' or '.join(names)}")


__all__ = ["Joined", "Layered", "Part", "ffns", "first", "mixers", "model_options", "sizes", "taps", "tie"]
