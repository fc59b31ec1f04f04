"""Recurrent mixers beside transformers' torch form of the same layer: forward and backward, and decoding steps.

    python tools/benchmarks/mixers.py [--part train|decode] [--width 256] [--tokens 4096] [--rounds 5] [--threads 2]
        [--only gdn,kda]

Both have the same sizes, in fp32, a batch of one. Within a round all take turns; a ratio is the median over rounds of
theirs to ours, in wall-clock and in processor seconds, which other load affects less (least with one thread). `kept` is
what training keeps for the gradient beside weights and input, a token, at --tokens and at four times as many. The
second table has microseconds of one decoding step, pre-norm and residual included, and the ratio to mlstm's: the least
of many short pieces, in which all take turns. In it, each mixer stands at its own defaults and with a state of mlstm's
size; sa and mla have up to 512 tokens in their cache.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median

import torch
import transformers
from measure import kept_bytes
from torch import Tensor, nn

from hybridkit.block import Dims, Layer, clone_state
from hybridkit.model.config import ModelConfig
from hybridkit.model.plan import compile_pattern

HEADS = 4
Theirs = Callable[[Dims], nn.Module]
PIECE, CACHED = 4, 512  # steps timed at a time; tokens in a cache at most
OF_MLSTMS_STATE = "gdn(head=32,value=64)", "kda(head=32,value=64)", "mamba2(state=16)"  # at width 256 and 4 heads


def layer_of(module: str, name: str, config: str, **sizes: object) -> nn.Module:
    """A layer of transformers, without its model."""
    modeling = importlib.import_module(f"transformers.models.{module}.modeling_{module}")
    return getattr(modeling, name)(getattr(transformers, config)(num_hidden_layers=1, **sizes), 0)


def gdn(dims: Dims) -> nn.Module:
    """Qwen3-Next's, with the sizes that `gdn` has at this width."""
    heads, key = dims.heads, 3 * dims.width // (4 * dims.heads)
    return layer_of(
        "qwen3_next",
        "Qwen3NextGatedDeltaNet",
        "Qwen3NextConfig",
        hidden_size=dims.width,
        layer_types=["linear_attention"],
        linear_num_key_heads=heads,
        linear_num_value_heads=heads,
        linear_key_head_dim=key,
        linear_value_head_dim=2 * key,
    )


def kda(dims: Dims) -> nn.Module:
    """Kimi-Linear's."""
    return layer_of(
        "kimi_linear",
        "KimiLinearDeltaAttention",
        "KimiLinearConfig",
        hidden_size=dims.width,
        layer_types=["linear_attention"],
        linear_num_heads=dims.heads,
        linear_head_dim=dims.width // dims.heads,
    )


def conv(dims: Dims) -> nn.Module:
    """LFM2's."""
    return layer_of("lfm2", "Lfm2ShortConv", "Lfm2Config", hidden_size=dims.width, layer_types=["conv"])


def mamba2(dims: Dims) -> nn.Module:
    """Mamba-2's own."""
    sizes = {"num_heads": dims.heads, "head_dim": 2 * dims.width // dims.heads, "state_size": 128, "n_groups": 1}
    return layer_of("mamba2", "Mamba2Mixer", "Mamba2Config", hidden_size=dims.width, **sizes)


def mamba2_of_8_heads(dims: Dims) -> nn.Module:
    """The same with heads of 64 at a width of 256, as published models have them."""
    return mamba2(replace(dims, heads=8))


class FromStart(nn.Module):
    """RecurrentGemma's block, which wants to know positions."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.block(x, torch.arange(x.shape[1])[None], None, use_cache=False)[0]
        return made


def rglru(dims: Dims) -> nn.Module:
    """RecurrentGemma's, which goes over tokens one by one: seconds a round."""
    sizes = {"hidden_size": dims.width, "num_attention_heads": dims.heads}
    return FromStart(layer_of("recurrent_gemma", "RecurrentGemmaRecurrentBlock", "RecurrentGemmaConfig", **sizes))


MIXERS: dict[str, Theirs] = {  # a pattern's name, and theirs
    "gdn": gdn,
    "kda": kda,
    "conv": conv,
    "mamba2": mamba2,
    "mamba2(heads=8)": mamba2_of_8_heads,
    "rglru": rglru,
}


def build(name: str, dims: Dims) -> Layer:
    """Our layer, as a pattern names it."""
    config = ModelConfig(width=dims.width, heads=dims.heads, vocab=dims.vocab, ffn=None)
    return compile_pattern(name, config).entries[0].block.build(dims)


def train(layer: nn.Module, x: Tensor, slope: Tensor) -> tuple[float, float, float]:
    """Seconds of a forward and of its backward, and processor seconds of both; `slope` is the output's gradient."""
    begin, begun = time.perf_counter(), time.process_time()
    y = layer(x)
    y = y[0] if isinstance(y, tuple) else y
    middle = time.perf_counter()
    torch.autograd.grad(y, [x, *layer.parameters()], slope)
    return middle - begin, time.perf_counter() - middle, time.process_time() - begun


def kept(layer: nn.Module, x: Tensor) -> float:
    """Bytes a token that training keeps beside weights and input."""
    own = {t.untyped_storage().data_ptr() for t in (x, *layer.parameters())}
    return kept_bytes(lambda: layer(x), own) / x.shape[1]


def compare(name: str, dims: Dims, tokens: int, rounds: int) -> None:
    """Print one row of the first table."""
    ours, theirs = build(name, dims), MIXERS[name](dims)
    x, slope = torch.randn(2, 1, tokens, dims.width).unbind()
    x.requires_grad_()
    taken = [(train(ours, x, slope), train(theirs, x, slope)) for _ in range(rounds + 1)][1:]
    columns = [median(pair[side][part] for pair in taken) * 1e3 for part in range(2) for side in range(2)]
    wall = median(sum(right[:2]) / sum(mine[:2]) for mine, right in taken)
    processor = median(right[2] / mine[2] for mine, right in taken)
    lengths = [torch.randn(1, n, dims.width, requires_grad=True) for n in (tokens, 4 * tokens)]
    bytes_kept = [kept(ours, long) / 1024 for long in lengths]
    cells = [f"{t:10.1f}" for t in columns] + [f"{wall:8.2f}{processor:10.2f}"] + [f"{b:9.1f}" for b in bytes_kept]
    print(f"{name:<16}{''.join(cells)}", flush=True)


@torch.no_grad()
def step_seconds(name: str, dims: Dims, rows: int) -> Callable[[int], float]:
    """A call that measures so many steps: mean seconds."""
    block = compile_pattern(name, ModelConfig(width=dims.width, heads=dims.heads, vocab=dims.vocab, ffn=None))
    start = block.entries[0].block.init_state(dims, rows, CACHED)
    decode, x = build(name, dims).decoder(nn.RMSNorm(dims.width, eps=1e-6), rows), torch.randn(rows, 1, dims.width)
    done, held = 0, clone_state(start)

    @torch.no_grad()
    def run(steps: int) -> float:
        nonlocal done, held
        if done + steps > CACHED:
            done, held = 0, clone_state(start)
        done += steps
        begin = time.perf_counter()
        for _ in range(steps):
            _, held = decode(x, held)
        return (time.perf_counter() - begin) / steps

    return run


def decoding(names: list[str], width: int, rows: int, rounds: int) -> None:
    """Print one line of the second table."""
    dims = Dims(width, HEADS, 257)
    runs = {name: step_seconds(name, dims, rows) for name in ["mlstm", *names]}
    taken = [{name: run(PIECE) for name, run in runs.items()} for _ in range(rounds)]
    least = {name: min(one[name] for one in taken) * 1e6 for name in runs}
    print(f"width {width}, {rows} rows")
    for name, time_taken in least.items():
        print(f"  {name:<24}{time_taken:9.0f}{time_taken / least['mlstm']:7.2f}", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"width": 256, "tokens": 4096, "rounds": 5, "threads": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", type=partial(str.split, sep=","), default=list(MIXERS))
    parser.add_argument("--part", choices=("train", "decode"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    transformers.logging.set_verbosity_error()
    if given.part != "decode":
        print(f"width {given.width}, {given.tokens} tokens, fp32, {given.threads} threads; ms, then kept KiB a token")
        print("                  forward    theirs  backward    theirs    wall processor     kept  4x long")
        for name in given.only:
            compare(name, Dims(given.width, HEADS, 257), given.tokens, given.rounds)
    if given.part != "train":
        print("\nmicroseconds of a decoding step, and over mlstm's")
        for rows in (1, 8):
            decoding([*given.only, *OF_MLSTMS_STATE, "sa", "mla"], given.width, rows, 60 * given.rounds)


if __name__ == "__main__":
    main()
