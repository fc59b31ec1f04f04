"""Whole = chunked = step by step; a batch of rows = each row alone. In float64, where a difference is a mistake."""

import gc
import weakref
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from tiny import some_ids, tiny
from torch import Tensor

from hybridkit.block import clone_state
from hybridkit.data.tokenizer import ByteTokenizer
from hybridkit.inference.decode import decoders
from hybridkit.model.model import Model
from hybridkit.system.errors import UserError

PATTERNS = [
    "[swa:stoch(8,24), mlstm]*2",
    "[swa:16, sa(kv_heads=2)]",
    "[[mlstm]*2, sa]",
    "[swa(kv_heads=1, qk_norm=true):5, swa:1, ffn(width=40), mlstm(heads=2)]",
]
BOUNDED = [pattern for pattern in PATTERNS if "sa(" not in pattern and "sa]" not in pattern]
# Logits of order 1 after some thousand float64 additions a token.
EXACT = {"rtol": 1e-9, "atol": 1e-9}


@torch.no_grad()
def whole(model: Model, ids: Tensor, window: int | None = None) -> Tensor:
    """Logits (B, T, V) of one call that carries nothing."""
    return model(ids, windows=model.fixed_windows(window) if window else None)[0]


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(("chunk", "tokens"), [(1, 35), (7, 131), (64, 517), (1000, 1009)])
def test_any_chunk_gives_the_logits_of_the_whole(pattern: str, chunk: int, tokens: int) -> None:
    model, ids = tiny(pattern), some_ids(tokens, rows=2)
    for window in (None, 3) if "swa" in pattern else (None,):
        context = model.prefill(ids, window=window, chunk=chunk)
        torch.testing.assert_close(context.logits, whole(model, ids, window)[:, -1], **EXACT)
        assert context.tokens == tokens


@pytest.mark.parametrize("pattern", PATTERNS)
def test_pieces_of_mixed_lengths_go_on_from_a_context(pattern: str) -> None:
    model, ids, context = tiny(pattern), some_ids(531), None
    logits = whole(model, ids)
    for begin, end in pairwise([0, 1, 8, 9, 73, 400, 531]):
        context = model.prefill(ids[:, begin:end], context, chunk=50)
        torch.testing.assert_close(context.logits, logits[:, end - 1], **EXACT)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("prompt", [1, 30])
def test_greedy_tokens_are_the_argmax_of_the_full_forward(pattern: str, prompt: int) -> None:
    """140 tokens outgrow the room of a growing state twice, and turn every ring over several times."""
    model, ids = tiny(pattern, torch.float32 if prompt == 1 else torch.float64), some_ids(prompt, rows=2)
    new = torch.stack(list(model.generate(model.prefill(ids), max_tokens=140, temperature=0)), dim=1)
    logits = whole(model, torch.cat([ids, new], dim=1))
    assert torch.equal(new, logits[:, prompt - 1 : -1].argmax(dim=-1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "dtype"), [*((pattern, torch.float32) for pattern in PATTERNS), (PATTERNS[0], torch.float64)]
)
def test_a_batch_of_prompts_gives_what_each_gives_alone(pattern: str, dtype: torch.dtype) -> None:
    model = tiny(pattern, dtype)
    prompts = [some_ids(length, seed=length)[0] for length in (1, 2, 9, 33, 70)]
    for temperature, chunk, most in ((0.0, 16, 40), (1.0, 1000, 12)):  # with the layers' decoders, and without
        options = {"max_tokens": most, "temperature": temperature, "top_p": 0.9}
        together = torch.stack(list(model.generate(model.prefill(prompts, chunk=chunk), **options)))
        for row, prompt in enumerate(prompts):
            alone = model.generate(model.prefill(prompt), seed=row, **options)
            assert torch.equal(torch.cat(list(alone)), together[:, row]), f"row {row} of {len(prompts)}"


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_context_can_be_used_again(pattern: str) -> None:
    model = tiny(pattern)
    context = model.prefill(some_ids(40))
    kept = [clone_state(state) for state in context.states]
    first = list(model.generate(context, max_tokens=20, seed=3))
    model.prefill(some_ids(9), context)
    assert first == list(model.generate(context, max_tokens=20, seed=3))
    for state, before in zip(context.states, kept, strict=True):
        assert all(map(torch.equal, state, before))


@torch.no_grad()
def test_the_copy_of_the_weights_is_kept_until_they_change() -> None:
    model = tiny("[swa:8, mlstm, ffn]", torch.float32)
    first = decoders(model, 1)
    assert decoders(model, 1) is first
    assert decoders(model, 8) is not first  # another layout
    for change in (lambda w: w.mul_(2), lambda w: w.data.mul_(2), lambda w: setattr(w, "data", w.data.clone())):
        before = decoders(model, 1)
        change(model.layers[2].layer.get_submodule("up").weight)
        after = decoders(model, 1)
        assert after is not before
    x, (steps, head) = torch.randn(1, 1, 32), after
    torch.testing.assert_close(steps[2](x, [()])[0], model.layers[2].step(x, [()])[0])
    torch.testing.assert_close(head(x[:, 0]), model.head(x[:, 0]))
    gone = weakref.ref(model)
    del model, first, before, after, steps, head
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("pattern", BOUNDED)
def test_bounded_stacks_hold_the_same_bytes_at_any_length(pattern: str) -> None:
    model = tiny(pattern)
    contexts = [model.prefill(some_ids(tokens), chunk=64) for tokens in (100, 1000)]
    assert contexts[0].bytes == contexts[1].bytes
    enlarged = model.reserve(contexts[0].states, 1_000_000)
    assert [t.shape for state in enlarged for t in state] == [t.shape for state in contexts[0].states for t in state]


def test_text_needs_a_tokenizer_and_ids_need_none() -> None:
    model = tiny("mlstm")
    with pytest.raises(UserError, match="no tokenizer"):
        model.prefill("text")
    model.tokenizer = ByteTokenizer()
    expected = model.prefill([list(b"two"), list(b"prompts")]).logits
    assert torch.equal(model.prefill(["two", "prompts"]).logits, expected)
    assert torch.equal(model.prefill("prompts").logits, model.prefill(torch.tensor(list(b"prompts"))).logits)


def test_generation_goes_on_until_it_is_left() -> None:
    model = tiny("[swa:8, sa]")
    context = model.prefill([1, 2, 3])
    assert len(list(islice(model.generate(context), 100))) == 100
    assert list(model.generate(context, max_tokens=0)) == []


def test_what_cannot_be_read_is_refused() -> None:
    model = tiny("[swa:8, mlstm]")
    model.tokenizer = ByteTokenizer()
    context = model.prefill(some_ids(5, rows=2))
    for tokens, message in (
        ("", "empty"),
        ([], "no prompt"),
        (["a", ""], "empty"),
        (torch.empty(1, 0, dtype=torch.int64), "empty"),
        ("\udcff", "UTF-8"),
        ([1, 257], "token 257 is not among"),
        ([-1], "token -1 is not among"),
        (b"ab", "the prompt is bytes: it should be text, or whole numbers"),
        (None, "the prompt is NoneType"),
        (7, "the prompt is int"),
        ([1.5], "the prompt holds"),
        (torch.tensor([1.0]), "the prompt holds"),
        ([[1.5], [2.5]], r"the prompt holds \[1.5\]"),
        ([b"ab"], "the prompt holds b'ab'"),
        ([None], "the prompt holds None"),
        ([[[1], [2, 3]]], "the prompt holds lists within lists"),
    ):
        with pytest.raises(UserError, match=message):
            model.prefill(tokens)
    for tokens in ("one row", ["two", "lengths"]):
        with pytest.raises(UserError, match="the context has 2 rows"):
            model.prefill(tokens, context)
    with pytest.raises(UserError, match="0 or more"):
        model.generate(context, max_tokens=-1)
    with pytest.raises(UserError, match=r"is 1.5; it is a whole number, 0 or more"):
        model.generate(context, max_tokens=1.5)  # type: ignore[arg-type]
    assert len(list(model.generate(context, max_tokens=np.int64(2), seed=np.int64(1)))) == 2  # type: ignore[arg-type]


def test_a_context_takes_a_smaller_window_and_refuses_a_larger_one() -> None:
    model, ids = tiny("[swa:8, mlstm]"), some_ids(60)
    context = model.prefill(ids[:, :40], window=20)
    assert model.prefill(ids[:, 40:], context).window == 20
    smaller = model.prefill(ids[:, 40:], context, window=6)
    with pytest.raises(ValueError, match="larger"):
        model.prefill(ids[:, 40:], context, window=21)
    with pytest.raises(ValueError, match="larger"):
        model.prefill(ids[:, 40:], smaller, window=7)
    with pytest.raises(ValueError, match="at least 1"):
        model.prefill(ids, window=0)
