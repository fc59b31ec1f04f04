"""The ring of keys and values: sizes, order, growth, steps in place, refusals. float64, compared to 1e-10."""

import itertools

import pytest
import torch
from torch import Tensor

from hybridkit.block import Block, Dims
from hybridkit.testing import state_bytes
from hybridkit_blocks.ops.kv_cache import KV
from hybridkit_blocks.sa import SelfAttention
from hybridkit_blocks.swa import SlidingWindowAttention
from hybridkit_blocks.windows.fixed import Fixed

DIMS = Dims(width=16, heads=4, vocab=257)
CLOSE = {"rtol": 1e-10, "atol": 1e-10}
BLOCKS = [SelfAttention(kv_heads=2), *(SlidingWindowAttention(window=Fixed(window=w)) for w in (1, 2, 9, 300))]


def built(block: Block) -> torch.nn.Module:
    torch.manual_seed(0)
    return block.build(DIMS).double()


def tokens(count: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, count, DIMS.width, dtype=torch.float64, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("block", BLOCKS, ids=str)
@torch.no_grad()
def test_steps_continue_any_prefill_with_documents(block: Block) -> None:
    layer, x = built(block), tokens(60)
    document_starts = torch.zeros(2, 60, dtype=torch.bool)
    document_starts[0, 20] = document_starts[1, 27] = document_starts[1, 30] = True
    whole, _ = layer(x, document_starts=document_starts)
    for prompt, room in itertools.product((31, 45), (60, 61, 1000)):
        _, state = layer(x[:, :prompt], document_starts=document_starts[:, :prompt])
        state = layer.reserve(state, room)
        before = [tensor.data_ptr() for tensor in state]
        for t in range(prompt, 60):
            y, state = layer.step(x[:, t : t + 1], state)
            torch.testing.assert_close(y[:, 0], whole[:, t], **CLOSE)
        assert [tensor.data_ptr() for tensor in state] == before, "a step moves its state"


@pytest.mark.parametrize("block", BLOCKS, ids=str)
@torch.no_grad()
def test_steps_from_nothing_and_forward_after_them(block: Block) -> None:
    layer, x = built(block), tokens(50)
    whole, final = layer(x)
    state = layer.reserve(block.init_state(DIMS, 2, 0, dtype=torch.float64), 40)
    for t in range(37):
        y, state = layer.step(x[:, t : t + 1], state)
        torch.testing.assert_close(y[:, 0], whole[:, t], **CLOSE)
    rest, after = layer(x[:, 37:], state)
    torch.testing.assert_close(rest, whole[:, 37:], **CLOSE)
    for ours, right in zip(after, final, strict=True):
        torch.testing.assert_close(ours, right, **CLOSE)


@pytest.mark.parametrize("block", BLOCKS, ids=str)
@torch.no_grad()
def test_reserve_keeps_what_was_seen_and_takes_the_promised_room(block: Block) -> None:
    layer, x = built(block), tokens(80)
    for seen, rooms in itertools.product((1, 8, 33), ((40,), (34, 50, 80))):
        _, state = layer(x[:, :seen])
        given = [tensor.clone() for tensor in state]
        grown = state
        for room in rooms:
            grown = layer.reserve(grown, room)
            assert state_bytes(grown) == state_bytes(block.init_state(DIMS, 2, room, dtype=torch.float64))
        assert all(map(torch.equal, state, given)), "reserve modifies the state that it is given"
        (y, after), (right, final) = layer(x[:, seen:], grown), layer(x[:, seen:], state)
        torch.testing.assert_close(y, right, **CLOSE)
        torch.testing.assert_close(after.k, final.k, **CLOSE)


@torch.no_grad()
def test_a_token_sits_in_the_slot_of_its_position() -> None:
    layer, x = built(SlidingWindowAttention(window=Fixed(window=8))), tokens(30)
    _, all_keys = layer(x, window=1000)
    for seen in (3, 7, 8, 20, 30):
        _, state = layer(x[:, :seen])
        size = min(seen, 7)
        for position in range(seen - size, seen):
            torch.testing.assert_close(state.k[:, :, position % size], all_keys.k[:, :, position], **CLOSE)


def test_a_short_ring_does_not_keep_a_long_call_alive() -> None:
    _, state = built(SlidingWindowAttention(window=Fixed(window=8)))(tokens(500))
    assert state.k.untyped_storage().nbytes() == state.k.nbytes


@pytest.mark.parametrize("seen", [1, 8, 30])
@torch.no_grad()
def test_windows_shrink_and_never_grow(seen: int) -> None:
    layer, x = built(SlidingWindowAttention(window=Fixed(window=16))), tokens(60)
    _, state = layer(x[:, :seen])
    y, smaller = layer(x[:, seen:50], state, window=5)
    torch.testing.assert_close(y, layer(x, window=5)[0][:, seen:50], **CLOSE)
    assert smaller.window.tolist() == [5, 5] and smaller.k.shape[2] == 4
    for carried, window, own in ((state, 17, 16), (smaller, None, 5), (smaller, torch.tensor(6), 5)):
        with pytest.raises(ValueError, match=f"is larger than {own}"):
            layer(x[:, 50:], carried, window=window)
    fresh, _ = layer(x, SlidingWindowAttention(window=Fixed(window=3)).init_state(DIMS, 2, 7, dtype=x.dtype), window=40)
    torch.testing.assert_close(fresh, layer(x, window=40)[0], **CLOSE)


@torch.no_grad()
def test_positions_run_past_a_million() -> None:
    """A state moved a million positions on: only distances matter, so outputs stay what they were."""
    block = SlidingWindowAttention(window=Fixed(window=12))
    layer, x = built(block), tokens(40)
    far = KV(*block.init_state(DIMS, 2, 40, dtype=x.dtype))
    far.position.fill_(10**6)
    far.since.fill_(10**6)
    y, state = layer(x, far)
    torch.testing.assert_close(y, layer(x)[0], rtol=0, atol=1e-8)  # float64 angles near 10^6 carry ten digits
    assert state.position.tolist() == [10**6 + 40] * 2


def test_gradients_cross_a_carried_state() -> None:
    layer, x = built(SlidingWindowAttention(kv_heads=2, window=Fixed(window=9))), tokens(30).requires_grad_()
    head, state = layer(x[:, :13])
    tail, _ = layer(x[:, 13:], state)
    whole, _ = layer(x)
    direction = torch.randn_like(whole)
    (cut,) = torch.autograd.grad(torch.cat([head, tail], 1), x, direction)
    (right,) = torch.autograd.grad(whole, x, direction)
    torch.testing.assert_close(cut, right, **CLOSE)
