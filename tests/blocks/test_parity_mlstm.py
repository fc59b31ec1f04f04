"""A small xLSTM-7B, put together from the mLSTM block, against transformers' xLSTMForCausalLM on the same weights."""

import pytest
import rounding
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridkit.block import Dims
from hybridkit_blocks.mlstm import Mlstm

transformers = pytest.importorskip("transformers")

DIMS = Dims(width=32, heads=2, vocab=61, depth=2)
FFN = 192  # 2.667 * 32 = 85.3, rounded up to a multiple of 192: a width that is not what 8 / 3 gives either
NAMES = {
    "q": "q",
    "k": "k",
    "v": "v",
    "igate": "igate_preact",
    "fgate": "fgate_preact",
    "ogate": "ogate_preact",
    "norm": "multihead_norm",
    "out": "out_proj",
}


class Stack(nn.Module):
    """Pre-norm residual blocks of our mLSTM and their SwiGLU, written out; its weights are copies of theirs."""

    def __init__(self, theirs: nn.Module) -> None:
        super().__init__()
        self.theirs = theirs  # for the weights of everything that is not the mLSTM
        self.mixers = nn.ModuleList(Mlstm().build(DIMS) for _ in range(DIMS.depth))
        for mixer, block in zip(self.mixers, theirs.backbone.blocks, strict=True):
            for ours, other in NAMES.items():
                mixer.get_submodule(ours).load_state_dict(block.mlstm_layer.get_submodule(other).state_dict())

    def forward(self, ids: Tensor) -> Tensor:
        backbone = self.theirs.backbone
        x = F.embedding(ids, backbone.embeddings.weight)
        for mixer, block in zip(self.mixers, backbone.blocks, strict=True):
            x = x + mixer(rms(x, block.norm_mlstm.weight))[0]
            y, ffn = rms(x, block.norm_ffn.weight), block.ffn
            gate = F.silu(y @ ffn.proj_up_gate.weight.T)
            x = x + (gate * (y @ ffn.proj_up.weight.T)) @ ffn.proj_down.weight.T
        logits = rms(x, backbone.out_norm.weight) @ self.theirs.lm_head.weight.T
        return 30 * torch.tanh(logits / 30)


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight


def theirs() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.xLSTMConfig(
        vocab_size=DIMS.vocab,
        hidden_size=DIMS.width,
        num_heads=DIMS.heads,
        num_hidden_layers=DIMS.depth,
        ffn_round_up_to_multiple_of=FFN,
        use_cache=False,
    )
    model = transformers.xLSTMForCausalLM(config)
    for parameter in model.parameters():  # gates that move and norms that are not one
        nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.5 if parameter.dim() == 1 else 0.2)
    return model.train()


@pytest.mark.parametrize("tokens", [64, 128])  # theirs trains on whole chunks of 64 only
def test_logits_and_every_gradient(tokens: int) -> None:
    other = theirs()
    ids = torch.randint(DIMS.vocab, (2, tokens))
    logits = other(ids, use_cache=False).logits
    F.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
    right = {name: p.grad.clone() for name, p in other.named_parameters()}
    other.zero_grad()

    ours = Stack(other)
    mine = ours(ids)
    F.cross_entropy(mine.flatten(0, 1), ids.flatten()).backward()
    assert (mine - logits).abs().max() < 2e-5 * logits.abs().max()
    for index, mixer in enumerate(ours.mixers):
        for name, parameter in mixer.named_parameters():
            module, _, leaf = name.rpartition(".")
            close(parameter.grad, right[f"backbone.blocks.{index}.mlstm_layer.{NAMES[module]}.{leaf}"], name)
    for name, parameter in other.named_parameters():
        if "mlstm_layer" not in name:
            close(parameter.grad, right[name], name)


@pytest.mark.slow
@pytest.mark.parametrize("precision", rounding.PRECISIONS)
def test_bf16_is_float64_to_rounding(precision: str) -> None:
    """The stack that equals theirs in fp32, with weights in bf16 and under autocast.

    Left out are the gradients of the input gates' biases: a bias scales all that a head holds, which the norm behind
    it takes out again, so that what is summed for it cancels.
    """
    stack, ids = Stack(theirs()), torch.randint(DIMS.vocab, (2, 100))

    def run(stack: nn.Module) -> tuple[Tensor, list[nn.Parameter]]:
        named = stack.get_submodule("mixers").named_parameters()
        return stack(ids), [weight for name, weight in named if not name.endswith("igate.bias")]

    rounding.check(stack, precision, run)


def close(ours: Tensor | None, right: Tensor, name: str) -> None:
    """fp32, both in chunks: sums of some thousand products, each divided by an n . q that may lie near zero."""
    assert ours is not None and (ours - right).norm() <= 2e-4 * right.norm() + 1e-7, name
