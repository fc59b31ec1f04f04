"""A family whose folders a class of transformers opens: config.json, safetensors, tokenizer, generation settings."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from hybridkit.block import Block, state_bytes
from hybridkit.hub.described import check_said
from hybridkit.hub.family import HINT, CannotSay, Described, Family
from hybridkit.hub.fields import Fields
from hybridkit.hub.files import cast, write_json, write_weights
from hybridkit.hub.tokenizer import end_of, write_tokenizer
from hybridkit.hub.weight_rules import to_theirs
from hybridkit.model.model import Model
from hybridkit.model.plan import Plan
from hybridkit.runs.run import Run
from hybridkit.runs.weights import weights_of
from hybridkit.system.errors import UserError

WRITTEN_FOR = "5.0.0"  # the transformers whose fields config.json has
UNLIMITED = 1 << 20  # tokens, where a state does not grow


def grows(plan: Plan) -> bool:
    """Whether a state of the plan grows with every token."""
    blocks = {branch.block for branch in plan.branches}
    return any(_bytes(plan, block, UNLIMITED) != _bytes(plan, block, 2 * UNLIMITED) for block in blocks)


def _bytes(plan: Plan, block: Block, tokens: int) -> int:
    with torch.device("meta"):
        return state_bytes(block.init_state(plan.dims, 1, tokens))


def hint(plan: Plan) -> dict[str, Any]:
    """The pattern as it was written, with what else decides its stack."""
    ffn = plan.config.ffn and dict(plan.config.ffn)
    return {"pattern": plan.pattern, "heads": plan.dims.heads, "ffn": ffn, "norm": plan.config.norm}


class TransformersClass(Family):
    """What the families share that transformers opens without code of ours."""

    model_type: ClassVar[str]
    architecture: ClassVar[str]
    opened_by = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
ids = tokenizer("def ", return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=50)[0]))"""
    defaults: ClassVar[Mapping[str, Any]] = {}  # of the class's config, for fields that a config.json leaves out
    scales_rows: ClassVar[bool] = False  # True: the class multiplies rows of the embedding as the config says

    @abstractmethod
    def config(self, plan: Plan) -> dict[str, Any]:
        """The fields of config.json that say this plan. Raises CannotSay."""

    @abstractmethod
    def layers(self, fields: Fields) -> Described:
        """The calls of the pattern and the model's options. Raises UserError."""

    def reads(self, config: dict[str, Any]) -> bool:
        return config.get("model_type") == self.model_type

    def check(self, plan: Plan) -> None:
        self.exact(plan)

    def exact(self, plan: Plan) -> dict[str, Any]:
        """`config`, read back and compared with the plan. Raises CannotSay where it says another model."""
        config = self.config(plan)
        if fault := self.decoding_fault(plan):
            raise CannotSay(fault)
        try:
            said = self.describe(Fields({**self.header(torch.float32), **config}, "config.json"))
            check_said(plan, said, scales_rows=self.scales_rows)
        except UserError as error:
            raise CannotSay(str(error)) from error
        return config

    def says_alike(self, plan: Plan, other: Plan) -> bool:
        return self.config(plan) == self.config(other)

    def describe(self, fields: Fields) -> Described:
        full = fields.with_defaults(self.defaults)
        said = self.layers(full)
        full.finish()
        return said

    def export(self, model: Model, run: Run, folder: Path, dtype: torch.dtype | None = None) -> None:
        plan, weights = model.plan, weights_of(model)
        kind = dtype or weights["norm.weight"].dtype
        config = self.exact(plan)
        if self.unties(plan):
            weights["head.weight"] = weights["embedding.weight"]
        if not self.scales_rows and plan.config.row_scale != 1:
            weights["embedding.weight"] = weights["embedding.weight"] * plan.config.row_scale
        assert model.tokenizer
        end = end_of(model.tokenizer)
        write_json(folder / "config.json", {**self.header(kind), **config, **end.ids(), **self.footer(model)})
        write_json(folder / "generation_config.json", {**end.ids(), "transformers_version": WRITTEN_FOR})
        write_weights(folder, ((name, cast(name, t, kind)) for name, t in to_theirs(self.rules(plan), weights)))
        write_tokenizer(model, end, folder)

    def header(self, dtype: torch.dtype) -> dict[str, Any]:
        """The first fields of config.json."""
        return {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            "dtype": str(dtype).removeprefix("torch."),
            "transformers_version": WRITTEN_FOR,
        }

    def footer(self, model: Model) -> dict[str, Any]:
        """How long a text may be, and the pattern with its policies, which `hub.importing` reads."""
        length = model.recipe.data.sequence if model.recipe and grows(model.plan) else UNLIMITED
        return {"max_position_embeddings": length, HINT: hint(model.plan)}

    def unties(self, plan: Plan) -> bool:
        """Whether a shared weight is written twice, since the class does not scale it where it is read as input."""
        return plan.config.tie and not self.scales_rows and plan.config.row_scale != 1

    def tied(self, plan: Plan) -> bool:
        """Whether the folder holds one weight for embedding and head."""
        return plan.config.tie and not self.unties(plan)
