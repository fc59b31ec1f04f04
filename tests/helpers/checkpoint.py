"""Checkpoints of transformers with random weights, as folders that `hybridkit import` reads."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hybridkit.data.tokenizer import ByteTokenizer
from hybridkit.hub.importing import write_run
from hybridkit.hub.tokenizer import byte_level
from hybridkit.model.config import ModelConfig
from hybridkit.model.model import Model
from hybridkit.model.plan import compile_pattern
from hybridkit.recipe.rules_version import CURRENT_RULES
from hybridkit.recipe.schema import Recipe
from hybridkit.runs.run import Run
from hybridkit.runs.weights import weights_of

VOCAB = 257  # tokens of `bytes`
FROM_ZERO = ("Gemma3", "Qwen3Next", "RecurrentGemma")  # norms multiply by 1 + weight
LLAMA = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "bos_token_id": None, "eos_token_id": 256, "pad_token_id": None,
}  # fmt: skip


def instance(name: str, **settings: Any) -> nn.Module:
    """A model of transformers, such as `Llama`, every path of which carries a signal."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, {"Gemma3": "Gemma3TextConfig"}.get(name, f"{name}Config"))(**settings)
    model = getattr(transformers, f"{name}ForCausalLM")(config).float().eval()
    for path, parameter in model.named_parameters():
        one = parameter.dim() == 1
        zero = name in FROM_ZERO and "norm" in path and "linear_attn" not in path
        nn.init.normal_(parameter, mean=float(one and not zero), std=0.3 if one else parameter.shape[-1] ** -0.5)
    return model


def save(model: nn.Module, folder: Path) -> Path:
    """The folder that `save_pretrained` writes, with the tokenizer `bytes`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(byte_level(), ensure_ascii=False), encoding="utf-8")
    return folder


def opened(folder: Path, **options: Any) -> nn.Module:
    """The model that transformers reads from a folder, without the network."""
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, **options).eval()


def greedy(model: nn.Module, ids: Tensor, tokens: int) -> list[int]:
    """What it goes on with after ids (1, T), with its cache."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, eos_token_id=None
        )
    return made[0, ids.shape[1] :].tolist()


def run_of(pattern: str, folder: Path, **options: Any) -> Path:
    """A run of one checkpoint, with random weights: a `model:` section as keywords beside the pattern."""
    recipe = Recipe.model_validate({"pattern": pattern, "model": {"width": 32, **options}, "rules": CURRENT_RULES})
    plan = compile_pattern(pattern, ModelConfig.of(recipe, recipe.model.vocab or VOCAB))
    torch.manual_seed(0)
    weights = weights_of(Model(plan))
    for tensor in weights.values():
        one = tensor.dim() == 1
        nn.init.normal_(tensor, mean=float(one), std=0.3 if one else tensor.shape[-1] ** -0.5)
    folder.mkdir()
    write_run(Run(folder), recipe, plan, ByteTokenizer(), weights)
    return folder
