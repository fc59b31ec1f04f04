"""Stacks of every mixer at sizes that no default has, side by side: some of their states hold no numbers at all."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import hybridkit
from hybridkit.block import clone_state
from hybridkit.inference.context_file import load_context, save_context
from hybridkit.inference.language_model import LanguageModel

STACKS = {
    "without taps": "[swa:1 | gdn(conv=1), conv(1) | rglru(width=9,heads=3,conv=1), mla(rope_head=0,head=5) | "
    "mamba2(heads=3,head=3,state=2,conv=1), kda(conv=1)]",
    "with options": "[swa(sinks=true,head=6,kv_heads=1):1 | mamba2(heads=3,head=5,state=4,groups=3) | "
    "kda(low_rank=false,lower_bound=-5), mla(q_rank=4,scale=.3) | mlstm, moe(5,2,6,clip=1,bias=true)]",
}


def stack(text: str) -> tuple[LanguageModel, Tensor]:
    """The model in float64 with random weights, and three rows of ids."""
    torch.manual_seed(0)
    model = hybridkit.build(text, width=12, heads=2, vocab=257).double()
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.4)
    return model, torch.randint(257, (3, 19))


@pytest.mark.parametrize("text", STACKS.values(), ids=STACKS)
@torch.no_grad()
def test_parts_steps_and_decoders_give_what_one_call_gives(text: str) -> None:
    """Documents differ by row up to token 9; 1e-12 is some thousand roundings of numbers near 1."""
    model, ids = stack(text)
    starts = torch.rand(ids.shape) < 0.2
    starts[:, 9:] = False
    whole, _ = model(ids, document_starts=starts)
    first, states = model(ids[:, :1], document_starts=starts[:, :1])
    more, states = model(ids[:, 1:9], states, document_starts=starts[:, 1:9])
    torch.testing.assert_close(torch.cat([first, more], 1), whole[:, :9], rtol=1e-12, atol=1e-12)
    held = model.reserve(states, ids.shape[1])
    other, decoders = [clone_state(state) for state in held], [layer.decoder(3) for layer in model.layers]
    for t in range(9, ids.shape[1]):
        stepped, held = model.step(ids[:, t], held)
        decoded, other = model.run_steps(decoders, ids[:, t], other)
        for made in (stepped, decoded):
            torch.testing.assert_close(made, whole[:, t], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("text", STACKS.values(), ids=STACKS)
def test_a_context_goes_on_from_a_file(text: str, tmp_path: Path) -> None:
    model, ids = stack(text)
    expected = torch.stack(list(model.generate(model.prefill(ids), max_tokens=5, temperature=0)))
    save_context(model.prefill(ids, chunk=4), model, tmp_path / "context")
    again = model.generate(load_context(tmp_path / "context", model), max_tokens=5, temperature=0)
    assert torch.equal(torch.stack(list(again)), expected)
