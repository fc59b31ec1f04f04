"""A config.json that somebody else wrote, field by field: whatever is neither read nor harmless is an error.

A field that nothing here knows may change what the model computes, so it is never dropped.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from hybridkit.system.errors import UserError
from hybridkit.system.terminal import printable

# Of every transformers config: names, versions, what generation and training do, and starts, none of which changes
# what the weights compute.
HARMLESS = frozenset(
    [
        "_name_or_path",
        "_attn_implementation",
        "architectures",
        "model_type",
        "transformers_version",
        "torch_dtype",
        "dtype",
        "use_cache",
        "initializer_range",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "sep_token_id",
        "decoder_start_token_id",
        "max_position_embeddings",
        "pretraining_tp",
        "id2label",
        "label2id",
        "problem_type",
        "return_dict",
        "output_attentions",
        "output_hidden_states",
        "chunk_size_feed_forward",
        "task_specific_params",
        "finetuning_task",
        "prefix",
        "tokenizer_class",
        "hybridkit",
    ]
)
_NEUTRAL: dict[str, Any] = {  # of every transformers config, at these values without effect
    "is_encoder_decoder": False,
    "is_decoder": False,
    "add_cross_attention": False,
    "cross_attention_hidden_size": None,
    "tie_encoder_decoder": False,
    "torchscript": False,
    "use_bfloat16": False,
    "pruned_heads": {},
    "quantization_config": None,
}


def is_number(value: Any) -> bool:
    """Whether a value of a config.json is a finite number that a float holds; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


class Fields:
    """The fields of a config.json; `origin` names the file in messages."""

    def __init__(self, said: Mapping[str, Any], origin: str, defaults: Mapping[str, Any] | None = None) -> None:
        self.origin = origin
        self._said = {**(defaults or {}), **said}
        self._read: set[str] = set()

    def with_defaults(self, defaults: Mapping[str, Any]) -> Fields:
        """The same fields, where those that are missing have these values."""
        return Fields({**defaults, **self._said}, self.origin)

    def is_null(self, name: str) -> bool:
        """Whether a field is said, as null."""
        return name in self._said and self._said[name] is None

    def take(self, name: str, default: Any = None) -> Any:
        """The value of a field, whatever it is; `default` where it is missing or null."""
        self._read.add(name)
        value = self._said.get(name)
        return default if value is None else value

    def whole(self, name: str, default: int | None = None, *, least: int = 1, most: int = 1 << 24) -> int:
        """A whole number within bounds. Raises UserError."""
        value = self.take(name, default)
        if type(value) is not int or not least <= value <= most:
            raise self.wrong(name, f"should be a whole number from {least} to {most}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number above 0. Raises UserError."""
        value = self.take(name, default)
        if not is_number(value) or not value > 0:
            raise self.wrong(name, "should be a finite number above 0")
        return float(value)

    def weight(self, name: str, default: float) -> float:
        """A finite number, 0 or above. Raises UserError."""
        value = self.take(name, default)
        if not is_number(value) or not value >= 0:
            raise self.wrong(name, "should be a finite number, 0 or above")
        return float(value)

    def switch(self, name: str, default: bool = False) -> bool:
        """True or false. Raises UserError."""
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, "should be true or false")
        return value

    def only(self, name: str, *allowed: Any) -> None:
        """A field that our blocks know at these values alone; the first holds where it is missing or null.

        Raises UserError.
        """
        value = self.take(name, allowed[0])
        if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed):
            raise self.wrong(name, f"no block here computes that; it can be {' or '.join(map(repr, allowed))}")

    def each(self, name: str, length: int, *allowed: Any) -> list[Any] | None:
        """A list with one of the `allowed` values for each of `length` layers; None where it is missing.

        Raises UserError.
        """
        value = self.take(name)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != length:
            raise self.wrong(name, f"should be a list of {length} values, one a layer")
        for one in value:
            if one not in allowed:
                raise self.wrong(name, f"{one!r} is none of {', '.join(map(repr, allowed))}")
        return value

    def wholes(self, name: str, default: list[int]) -> list[int]:
        """A list of whole numbers, 0 or above, such as numbers of layers. Raises UserError."""
        value = self.take(name, default)
        if not isinstance(value, list) or not all(type(one) is int and one >= 0 for one in value):
            raise self.wrong(name, "should be a list of whole numbers, 0 or above")
        return value

    def harmless(self, *names: str) -> None:
        """Fields of this family that do not change what the weights compute."""
        self._read.update(names)

    def finish(self) -> None:
        """Raises UserError, naming it, for a field that nobody has read."""
        for name, value in self._said.items():
            if name in self._read or name in HARMLESS or (name in _NEUTRAL and value == _NEUTRAL[name]):
                continue
            if name == "auto_map":
                raise UserError(f"{self.origin}: auto_map: the model brings code of its own, which is never run")
            if name == "quantization_config":
                raise self.wrong(name, "quantized weights of this class are not read; take a checkpoint in bf16, or"
                                 " make one with transformers: model.dequantize().save_pretrained(NEW)")  # fmt: skip
            raise self.wrong(name, "this is not known here, and may change what the model computes")

    def wrong(self, name: str, why: str) -> UserError:
        """The error for a field."""
        said = printable(repr(self._said.get(name)))
        return UserError(f"{self.origin}: {name[:60]}: {said[:60]}{'...' if len(said) > 60 else ''}: {why}")
