"""How models begin, every shipped recipe's among them: the first loss, the residual stream, the gradients."""

import math
import random
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from hybridkit.block import Block, Entry
from hybridkit.model.config import ModelConfig
from hybridkit.model.loading import plan
from hybridkit.model.model import OWN_LOGIT, TIED_SIZE, Model
from hybridkit.model.plan import Plan, compile_pattern
from hybridkit.recipe.files import shipped
from hybridkit.registry.kinds import BLOCK
from hybridkit.registry.registry import REGISTRY
from hybridkit.runs.run import load_recipe

ROWS, TOKENS = 4, 24
# A mean over 96 targets of logits that spread by .63 wavers by .06 nats, their spread adds .2 to ln V, or a tied
# token's own logit of 2 adds 6.4 / V: 7 % of ln V at the smallest vocabulary here.
FIRST_LOSS = 0.10
# Of L mixers and as many FFNs each adds 2 / L times what it projects, of size .63 at most (`small_init_`,
# `wang_init_`): 2.5 if all add in one direction, to a stream that begins at 1.
STREAM = 3.5
SPACES = "studies"  # of shipped recipes: what `search` reads


def narrow(name: str) -> Plan:
    """A recipe's plan at its own depth, tie, cap and vocabulary, at the least width that its heads fit."""
    loaded = load_recipe(name)
    recipe, described = loaded.recipe, plan(loaded)
    text = re.sub(r"ffn\(width=\d+", "ffn(width=96", recipe.pattern)
    ffn = recipe.model.ffn and {**recipe.model.ffn, **({"width": 96} if "width" in recipe.model.ffn else {})}
    for width in range(64, 1024, 16):
        try:
            return compile_pattern(text, replace(described.config, width=width, ffn=ffn))
        except ValueError:
            continue
    raise AssertionError(f"no width below 1024 fits {name}")


def recipes() -> dict[str, Callable[[], Plan]]:
    """The plans of shipped recipes, by name; of those that differ in windows and widths alone, one.

    Published models follow below, with fewer experts and smaller heads.
    """
    files = {path.stem: name for name, path in shipped().items() if path.parent.name not in (SPACES, "published")}
    found = {}
    for name in sorted(files.values()):
        recipe = load_recipe(name).recipe
        pattern = re.sub(r":[a-z]+\([^)]*\)|:\d+", ":32", re.sub(r"ffn\(width=\d+", "ffn(width=96", recipe.pattern))
        ffn = recipe.model.ffn and recipe.model.ffn.keys()
        found[pattern, recipe.data.tokenizer, str(ffn), recipe.model.model_dump_json(exclude={"width", "ffn"})] = name
    return {name: partial(narrow, name) for name in found.values()}


def patterns() -> dict[str, Callable[[], Plan]]:
    """Small random stacks of all blocks, tied and not, and stacks of 64 entries, tied or not, by name."""
    draw, names = random.Random(0), [name for name in REGISTRY.names(BLOCK) if REGISTRY.block(name).is_mixer]

    def entry(name: str) -> str:
        return f"{name}:{draw.randint(2, 40)}" if REGISTRY.block(name).has_window else name

    small = [f"[{', '.join(map(entry, draw.choices(names, k=draw.randint(1, 4))))}]*1" for _ in range(12)]
    deep = ["[swa:8, mlstm]*16", *(f"[{entry(name)}]*32" for name in names)]
    cases = [(text, tie) for text in small for tie in (False, True)]
    cases += [(text, place % 2 == 0) for place, text in enumerate(deep)]
    found = {}
    for text, tie in cases:
        config = ModelConfig(tie=tie, width=draw.choice((32, 64)), heads=4, vocab=draw.choice((48, 257, 2000)))
        found[f"{text} {'tied' if tie else 'untied'}"] = partial(compile_pattern, text, config)
    return found


CASES = recipes() | patterns()


def drawn(described: Plan) -> tuple[Model, Tensor, Tensor]:
    """A fresh model, and random tokens and targets."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Model(described)
        tokens, targets = torch.randint(described.dims.vocab, (2, ROWS, TOKENS))
    return model, tokens, targets


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_model_begins_right(case: str) -> None:
    described = CASES[case]()
    model, tokens, targets = drawn(described)
    sizes = []
    for layer in (*model.layers, model.norm):
        layer.register_forward_pre_hook(lambda _, given: sizes.append(given[0].detach().square().mean().sqrt().item()))
    loss = model(tokens, targets=targets)[0] / targets.numel()
    assert loss.item() == pytest.approx(math.log(described.dims.vocab), rel=FIRST_LOSS)
    assert sizes[0] == pytest.approx(TIED_SIZE if described.config.tie else 1, rel=0.1) and max(sizes) < STREAM
    loss.backward()
    reached = tokens.unique()
    for name, weight in model.named_parameters():
        gradient = weight.grad[reached] if name == "embedding.weight" else weight.grad
        assert gradient.isfinite().all(), name
        assert (gradient != 0).all(), f"{name}: {int((gradient == 0).sum())} of {gradient.numel()} get no gradient"


EXPERTS = {"experts": 4, "active": 2, "groups": 1, "active_groups": 1, "width": 32}
SMALL = {"width": 96, "head": 16, "value": 16, "state": 16, "rank": 32, "rope_head": 8}


def scaled_down(block: Block) -> Block:
    """The block with 4 experts of width 32, or with an FFN of 96, heads of 16 and states of 16 numbers."""
    fields = EXPERTS if "experts" in type(block).model_fields else SMALL
    return block.model_copy(update={name: size for name, size in fields.items() if getattr(block, name, None)})


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({path.stem for path in shipped().values() if path.parent.name == "published"}))
def test_a_published_model_begins_right(name: str) -> None:
    """At its own depth. Outputs that are normalized add vectors of size 1: in all the root of their number."""
    described = plan(load_recipe(name))
    entries = tuple(Entry(tuple(map(scaled_down, entry.branches))) for entry in described.entries)
    for width in range(64, 1024, 16):
        model, tokens, targets = None, None, None
        try:
            model, tokens, targets = drawn(Plan((), entries, replace(described.config, width=width)))
            break
        except ValueError:
            continue
    sizes: list[float] = []
    model.norm.register_forward_pre_hook(lambda _, given: sizes.append(given[0].square().mean().sqrt().item()))
    loss = model(tokens, targets=targets)[0] / targets.numel()
    assert loss.item() == pytest.approx(math.log(described.dims.vocab), rel=FIRST_LOSS)
    assert sizes[0] < max(STREAM, len(entries) ** 0.5 + 1)
    loss.backward()
    for name, weight in model.named_parameters():
        assert weight.grad.isfinite().all() and weight.grad.any(), name


@pytest.mark.parametrize("width", [64, 1024])
def test_a_tied_models_own_logit_does_not_grow_with_the_width(width: int) -> None:
    """A token's row meets itself in the head: 32 at width 1024 if the last norm began at 1."""
    model, tokens, _ = drawn(compile_pattern("sa", ModelConfig(width=width, heads=8, vocab=64, ffn=None, tie=True)))
    logits = model.head(model.norm(model.embedding(tokens)))
    assert logits.gather(2, tokens[..., None]).mean().item() == pytest.approx(OWN_LOGIT, rel=0.1)
