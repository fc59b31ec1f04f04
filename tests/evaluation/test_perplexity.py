"""Loss over held-out text: streamed equals at once, and equals transformers' on the same weights."""

import math
from typing import Any

import pytest
import torch
from tiny import some_ids, tiny
from torch import nn
from torch.nn import functional as F

import hybridkit
from hybridkit.data.batches import IGNORED, Batch
from hybridkit.evaluation.ablation import ablated, check_ablation
from hybridkit.evaluation.perplexity import by_position, perplexity
from hybridkit.evaluation.scoring import ReadOptions, continuation, score_tokens, stream_scores
from hybridkit.model.model import Model
from hybridkit.system.errors import UserError

TOKENS = 70
PATTERN = "[swa:8, mlstm]"


def batch(tokens: int = TOKENS, rows: int = 2, vocab: int = 257) -> Batch:
    ids = some_ids(tokens + 1, rows) % vocab
    targets = ids[:, 1:].clone()
    targets[:, 3::11] = IGNORED
    return Batch(ids[:, :-1], targets, None, 123)


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
@pytest.mark.parametrize("window", [None, 3, 20])
def test_chunks_change_nothing(chunk: int, window: int | None) -> None:
    model, text = tiny(PATTERN), batch()
    whole, _ = model(text.tokens, windows=model.fixed_windows(window) if window else None, targets=text.targets)
    loss = perplexity(model, [text], ReadOptions(window, chunk=chunk))
    assert loss.nats == pytest.approx(whole.item(), rel=1e-12)
    assert loss.tokens == (text.targets != IGNORED).sum() and loss.bytes == 123
    assert loss.to_json()["bits_per_byte"] == pytest.approx(whole.item() / math.log(2) / 123)


def test_what_is_held_at_once_does_not_grow_with_the_text() -> None:
    model = tiny(PATTERN, torch.float32)
    seen: set[tuple[int, ...]] = set()
    hooks = [m.register_forward_hook(lambda *a: seen.add(tuple(a[1][0].shape))) for m in model.modules()]
    list(stream_scores(model, batch(64, 1), ReadOptions(chunk=16)))
    short = set(seen)
    list(stream_scores(model, batch(640, 1), ReadOptions(chunk=16)))
    assert hooks and seen - short <= {(n, 32) for n in range(17)}  # of the head, counted targets differ by chunk


def test_bins_hold_every_target_once() -> None:
    model, text = tiny(PATTERN), batch()
    bins = by_position(model, [text], ReadOptions(chunk=16))
    judged = score_tokens(model, text, ReadOptions())
    assert [(b.first, b.last) for b in bins] == [(1, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, 63), (64, 70)]
    for found in bins:
        span = slice(found.first - 1, found.last)
        assert found.tokens == (text.targets[:, span] != IGNORED).sum()
        assert found.nats == pytest.approx(judged.nats[:, span].sum().item(), rel=1e-12)
    assert all(found.to_json()["gain"] is None for found in bins)


def test_the_gain_is_against_reading_each_sequence_alone() -> None:
    """Restarts at multiples of 16 are rows of 16 tokens."""
    model, text = tiny(PATTERN), batch(64)
    bins = by_position(model, [text], ReadOptions(chunk=24), restart=16)
    alone = Batch(text.tokens.reshape(-1, 16), text.targets.reshape(-1, 16), None, 0)
    apart = score_tokens(model, alone, ReadOptions()).nats.reshape(2, 64)
    for found in bins:
        assert found.restarted == pytest.approx(apart[:, found.first - 1 : found.last].sum().item(), rel=1e-12)
        assert found.last >= 16 or found.to_json()["gain"] == pytest.approx(0, abs=1e-12)


def test_continuations_are_scored_as_if_each_stood_alone() -> None:
    model, ids = tiny(PATTERN), some_ids(30)[0].numpy()
    pairs = [(ids[:5], ids[5:9]), (ids[:20], ids[20:22]), (ids[3:4], ids[4:30])]
    together = continuation(pairs)
    judged = score_tokens(model, together, ReadOptions(chunk=8))
    for row, (read, rest) in enumerate(pairs):
        whole = torch.cat([torch.from_numpy(part) for part in (read, rest)])
        logits = model(whole[None, :-1])[0][0, len(read) - 1 :]
        expected = F.cross_entropy(logits, torch.from_numpy(rest).long(), reduction="none")
        counted = together.targets[row] != IGNORED
        torch.testing.assert_close(judged.nats[row][counted], expected)
        assert judged.right[row][counted].tolist() == (logits.argmax(-1) == torch.from_numpy(rest)).tolist()


@pytest.mark.parametrize("name", ["mlstm", "swa"])
def test_ablation_is_an_output_projection_of_zeros(name: str) -> None:
    model, other, text = tiny(PATTERN), tiny(PATTERN), batch()
    for entry, residual in zip(other.plan.entries, other.layers, strict=True):
        if entry.block.name() == name:
            nn.init.zeros_(residual.layer.out.weight)
    intact = perplexity(model, [text], ReadOptions()).nats
    with ablated(model, name):
        assert perplexity(model, [text], ReadOptions(5)).nats == pytest.approx(
            perplexity(other, [text], ReadOptions(5)).nats, rel=1e-12
        )
    assert perplexity(model, [text], ReadOptions()).nats == intact


def test_one_branch_or_one_layer_is_ablated_by_its_index() -> None:
    model, text = tiny("[swa:8 | mlstm, mlstm]"), batch()
    check_ablation(model.plan, "0.1")
    with ablated(model, "0.1"):
        one = perplexity(model, [text], ReadOptions()).nats
    nn.init.zeros_(model.get_submodule("layers.0.1.mlstm.out").weight)
    assert one == pytest.approx(perplexity(model, [text], ReadOptions()).nats, rel=1e-12)
    with ablated(model, "2"), ablated(model, "swa"):
        both = perplexity(model, [text], ReadOptions()).nats
    with ablated(model, "mlstm"), ablated(model, "swa"):
        assert both == pytest.approx(perplexity(model, [text], ReadOptions()).nats, rel=1e-12)
    for name in ("0", "0.2", "sa"):
        with pytest.raises(UserError, match="no such block"):
            check_ablation(model.plan, name)


ATTENTION = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "out": "self_attn.o_proj"}
FFN = {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
MLSTM = {"q": "q", "k": "k", "v": "v", "ogate": "ogate_preact", "igate": "igate_preact", "fgate": "fgate_preact"}
MLSTM |= {"norm": "multihead_norm", "out": "out_proj"}
GATED = {"gate": "ffn.proj_up_gate", "up": "ffn.proj_up", "down": "ffn.proj_down"}


def mistral(transformers: Any) -> tuple[nn.Module, Model]:
    config = transformers.MistralConfig(
        vocab_size=61, hidden_size=32, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, rms_norm_eps=1e-6, sliding_window=16, max_position_embeddings=TOKENS,
    )  # fmt: skip
    theirs = transformers.MistralForCausalLM(config)
    ours = hybridkit.build("[swa:16]*2", width=32, heads=4, vocab=61)
    for place, layer in enumerate(theirs.model.layers):
        mixer, ffn = ours.layers[2 * place], ours.layers[2 * place + 1]
        copy(mixer.layer, layer, ATTENTION)
        copy(ffn.layer, layer, FFN)
        mixer.norm.load_state_dict(layer.input_layernorm.state_dict())
        ffn.norm.load_state_dict(layer.post_attention_layernorm.state_dict())
    share(ours, theirs.model.embed_tokens, theirs.model.norm, theirs.lm_head)
    return theirs, ours


def xlstm(transformers: Any) -> tuple[nn.Module, Model]:
    config = transformers.xLSTMConfig(
        vocab_size=61, hidden_size=32, num_heads=4, num_hidden_layers=2, ffn_round_up_to_multiple_of=64
    )
    theirs = transformers.xLSTMForCausalLM(config)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.3)
    ours = hybridkit.build("mlstm*2", width=32, heads=4, vocab=61, logit_cap=30)
    for place, block in enumerate(theirs.backbone.blocks):
        mixer, ffn = ours.layers[2 * place], ours.layers[2 * place + 1]
        copy(mixer.layer, block.mlstm_layer, MLSTM)
        copy(ffn.layer, block, GATED)
        mixer.norm.load_state_dict(block.norm_mlstm.state_dict())
        ffn.norm.load_state_dict(block.norm_ffn.state_dict())
    share(ours, theirs.backbone.embeddings, theirs.backbone.out_norm, theirs.lm_head)
    return theirs, ours


def copy(ours: nn.Module, theirs: nn.Module, names: dict[str, str]) -> None:
    for name, path in names.items():
        ours.get_submodule(name).load_state_dict(theirs.get_submodule(path).state_dict())


def share(ours: Model, embedding: nn.Module, norm: nn.Module, head: nn.Module) -> None:
    ours.embedding.load_state_dict(embedding.state_dict())
    ours.norm.load_state_dict(norm.state_dict())
    ours.head.load_state_dict(head.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("kind", [mistral, xlstm])
@pytest.mark.parametrize("chunk", [16, 1000])
@torch.no_grad()
def test_perplexity_is_that_of_transformers_on_the_same_weights(kind: Any, chunk: int) -> None:
    """fp32 on both sides, in another order of sums: five digits."""
    transformers = pytest.importorskip("transformers", reason="parity needs the hf extra")
    torch.manual_seed(0)
    theirs, ours = kind(transformers)
    text = batch(64, vocab=61)
    logits = theirs.eval()(text.tokens, use_cache=False).logits
    expected = F.cross_entropy(logits.flatten(0, 1).double(), text.targets.flatten(), ignore_index=IGNORED)
    loss = perplexity(ours.eval(), [text], ReadOptions(chunk=chunk)).to_json()
    assert loss["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert loss["perplexity"] == pytest.approx(expected.exp().item(), rel=1e-4)


def test_progress_counts_every_token_that_is_read() -> None:
    model, text, told = tiny(PATTERN), batch(), list[int]()
    perplexity(model, [text], ReadOptions(chunk=16), told.append)
    assert sum(told) == text.tokens.numel() and len(told) == 5
    by_position(model, [text], ReadOptions(chunk=16), 32, told.append)
    assert sum(told) == 3 * text.tokens.numel(), "with a restart the text is read twice"
