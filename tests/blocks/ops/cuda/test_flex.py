"""The block mask by which CUDA attention skips, against the mask written out: no pair lost, no hole in a full block."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from hybridkit_blocks.ops.cpu.banded import banded
from hybridkit_blocks.ops.cuda import flex
from hybridkit_blocks.ops.cuda.flex import BLOCK, block_mask

CPU = torch.device("cpu")
BY_KEYS = ("q_num_blocks", "q_indices", "full_q_num_blocks", "full_q_indices")


def written_out(tokens: int, keys: int, window: int | None, documents: Tensor | None) -> Tensor:
    """(B or 1, T, S) bool."""
    age = torch.arange(keys - tokens, keys)[:, None] - torch.arange(keys)
    seen = ((age >= 0) & (age < (window or keys)))[None]
    return seen if documents is None else seen & (documents[:, keys - tokens :, None] == documents[:, None])


def blocks(seen: Tensor, filler: bool) -> Tensor:
    """(B, T, S) cut in blocks (B, M, N, BLOCK, BLOCK), what overhangs filled."""
    pad = [-size % BLOCK for size in (seen.shape[2], seen.shape[1])]
    whole = F.pad(seen, (0, pad[0], 0, pad[1]), value=filler)
    return whole.unflatten(2, (-1, BLOCK)).unflatten(1, (-1, BLOCK)).transpose(2, 3)


def listed(count: Tensor, order: Tensor) -> Tensor:
    """(B, M, N) bool from FlexAttention's lists."""
    chosen = torch.arange(order.shape[-1]) < count[..., None]
    return torch.zeros_like(chosen).scatter(-1, order.long(), chosen)[:, 0]


@pytest.mark.parametrize("with_documents", [False, True])
@pytest.mark.parametrize(("tokens", "keys"), [(1, 1), (1, 400), (130, 130), (600, 600), (200, 777), (512, 1024)])
def test_blocks_hold_all_visible_pairs(tokens: int, keys: int, with_documents: bool) -> None:
    torch.manual_seed(keys)
    documents = (torch.rand(2, keys) < 0.005).cumsum(1) if with_documents else None
    for window in (1, 2, 127, 128, 129, 300, torch.tensor(256), None):
        mask = block_mask(tokens, keys, window, documents, CPU)
        seen = written_out(tokens, keys, None if window is None else int(window), documents)
        some, every = blocks(seen, False).flatten(3).any(-1), blocks(seen, True).flatten(3).all(-1)
        usual = BlockMask.from_kv_blocks(  # the gradient reads the same blocks by their keys
            mask.kv_num_blocks,
            mask.kv_indices,
            mask.full_kv_num_blocks,
            mask.full_kv_indices,
            BLOCK_SIZE=BLOCK,
            mask_mod=mask.mask_mod,
            seq_lengths=(tokens, keys),
        )
        assert all(torch.equal(getattr(mask, name), getattr(usual, name)) for name in BY_KEYS)
        partial = listed(mask.kv_num_blocks, mask.kv_indices)
        full = listed(mask.full_kv_num_blocks, mask.full_kv_indices)
        assert not (partial & full).any() and not (full & ~every).any() and not (some & ~partial & ~full).any()
        assert ((partial | full) & ~some).sum() == 0, "a block without visible pairs is computed"
        for b, t, s in itertools.product(range(len(seen)), (0, tokens // 2, tokens - 1), (0, keys // 2, keys - 1)):
            at = [torch.tensor(index) for index in (b, 0, t, s)]
            assert bool(mask.mask_mod(*at)) == bool(seen[b, t, s])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_agrees_with_blocks_of_queries() -> None:
    q, k, v = torch.randn(2, 70, 4, 16), torch.randn(2, 100, 2, 16), torch.randn(2, 100, 2, 16)
    documents = (torch.rand(2, 100) < 0.05).cumsum(1)
    for window, ids in itertools.product((5, None), (None, documents)):
        mask = block_mask(70, 100, window, ids, CPU)
        heads_first = (x.transpose(1, 2) for x in (q, k, v))
        y = flex_attention(*heads_first, block_mask=mask, enable_gqa=True).transpose(1, 2)
        torch.testing.assert_close(y, banded(q, k, v, window, ids), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("tokens", "keys"), [(1, 1), (60, 60), (127, 300), (128, 128)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_fp32_asks_for_the_ordinary_kernel(
    monkeypatch: pytest.MonkeyPatch, tokens: int, keys: int, dtype: torch.dtype
) -> None:
    """On CUDA the kernel that torch prefers below 128 queries does not compile in fp32; other types keep it."""
    given: list[dict[str, bool] | None] = []

    def run(q: Tensor, k: Tensor, v: Tensor, **options: object) -> Tensor:
        given.append(options.pop("kernel_options"))  # type: ignore[arg-type]
        return q

    monkeypatch.setattr(flex, "_compiled", lambda: run)
    monkeypatch.setattr(flex, "flex_attention", run)
    q, k, v = (torch.randn(1, n, 2, 16, dtype=dtype) for n in (tokens, keys, keys))
    flex.flex(q, k, v, 40, None)
    ordinary = {"FORCE_USE_FLEX_ATTENTION": True} if dtype == torch.float32 else None
    assert given == [ordinary]


def test_torch_may_keep_a_graph_for_each_case() -> None:
    """Beyond its limit, 8 by itself, FlexAttention runs uncompiled, with all T x S scores in memory."""
    with torch._dynamo.config.patch(recompile_limit=8):
        flex._compiled.cache_clear()
        flex._compiled()
        assert torch._dynamo.config.recompile_limit >= 2 * 2 * 2 * 2 * 3  # documents, gradients, rows, T = S, types
    flex._compiled.cache_clear()  # whoever compiles next raises the limit again
