"""Published models are what their recipes say: as many parameters as transformers counts, and the same logits."""

import random

import pytest
import torch
from published import MODELS as DENSE
from published import VOCAB, copy_to, described, scaled_down, theirs
from published_hybrids import HYBRIDS

from hybridkit.cost.flops import CostSettings, cost
from hybridkit.data.tokenizer import ByteTokenizer
from hybridkit.evaluation.haystack import open_essays
from hybridkit.evaluation.needles import answer_forced
from hybridkit.evaluation.scoring import ReadOptions
from hybridkit.evaluation.task import choose_task
from hybridkit.inference.decode import packed_step, prefill
from hybridkit.recipe.files import shipped

MODELS = DENSE | HYBRIDS
pytestmark = pytest.mark.slow  # transformers takes seconds to import


def test_every_published_recipe_is_compared() -> None:
    found = {name for name in shipped() if name.startswith("published/")}
    assert {f"published/{name}" for name in MODELS} == found


@pytest.mark.parametrize("name", MODELS)
def test_a_published_model_has_its_parameters(name: str) -> None:
    published, found = MODELS[name], cost(described(name), CostSettings(1024, dtype=torch.bfloat16))
    with torch.device("meta"):
        weights = {id(weight): weight.numel() for weight in theirs(published.name, published.fields).parameters()}
    assert found.parameters.total == sum(weights.values()) == published.parameters
    assert 0 < found.decode <= 2.1 * found.parameters.total + found.state, "two a weight, and those of the states"


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_published_model_has_its_logits(name: str) -> None:
    """Scaled down, on copied weights, in float64. transformers computes norms, angles and recurrent cells in fp32, with
    differences up to 2e-4 of a standard deviation here; another function differs by about one."""
    published, model = MODELS[name], scaled_down(name, MODELS[name])
    other = theirs(published.name, published.fields | published.small | published.options).double().eval()
    copy_to(other, model, published)
    ids = torch.randint(VOCAB, (2, 40), generator=torch.Generator().manual_seed(1))
    logits = model(ids)[0]
    torch.testing.assert_close(logits, other(ids).logits.to(logits), rtol=1e-3, atol=1e-3 * logits.std().item())


@pytest.mark.parametrize("name", MODELS)
def test_a_published_model_decodes_as_it_reads_and_trains(name: str) -> None:
    """Scaled down, in float64: prefill in chunks and decoding against one call; two steps lower the loss."""
    model = scaled_down(name, MODELS[name])
    ids = torch.randint(VOCAB, (2, 24), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        whole = model(ids)[0]
        context = prefill(model, ids[:, :17], chunk=5)
        states, packed = model.reserve(context.states, 24), packed_step(model, 2)
        for place in range(17, 24):
            step = packed if place % 2 else model.step
            logits, states = step(ids[:, place], states)
            torch.testing.assert_close(logits, whole[:, place], rtol=1e-7, atol=1e-7 * whole.std().item())
    model.requires_grad_(True)
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-3), list[float]()
    for _ in range(3):
        loss = model(ids[:, :-1], targets=ids[:, 1:])[0]
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] > losses[1] > losses[2]


@pytest.mark.slow
@torch.no_grad()
def test_every_published_model_is_asked_for_a_needle() -> None:
    """Scaled down, with random weights, which know nothing: the likelihood of the right answer can be measured."""
    task = choose_task("niah_single_1")
    prompt = task.prompt(task.least, random.Random(0), open_essays())
    for name, published in MODELS.items():
        model = scaled_down(name, published, 257).float()
        model.tokenizer = ByteTokenizer()
        (answer,) = answer_forced(model, [prompt], ReadOptions(chunk=100))
        assert answer.nats is not None and 4 < answer.nats < 9, name  # ln 257 is 5.5, and random logits add to it
