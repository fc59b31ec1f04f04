"""Compiled kernels without a GPU: Triton's interpreter runs them on a CPU, and each must pass the gate of a card, which
holds its outputs, states and gradients to those of the project's own form, documents included.

    python tools/stress/interpreted_kernels.py [mlstm_step] [attention_step] [delta_step] [ssd_step] [convolution_step]
        [layers] [mlstm] [mamba2] [gdn] [kda]

The steps are the project's own, and are tried for the heads of all shipped recipes, in fp32 and bf16. The others
need triton of a version that mlstm_kernels can be read by (3.6 to 3.8), flash-linear-attention for all but mlstm, and,
with triton 3.6, numpy below 2.4. Each takes one to five minutes. It shows that a kernel is called rightly and
computes what the block means; not that a card's compiler translates it rightly, which the gate asks there.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec

if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported

import torch

import hybridkit
from hybridkit.block import packed
from hybridkit_blocks.ops import attention_step, convolution_step, delta_step, mlstm_step, ssd_step
from hybridkit_blocks.ops.delta_kernels import _fault as delta_fault
from hybridkit_blocks.ops.kernel_gate import difference
from hybridkit_blocks.ops.mlstm_kernels import _fault as mlstm_fault
from hybridkit_blocks.ops.ssd_kernels import _fault as ssd_fault

HEAD = 32
CPU = torch.device("cpu")
TYPES = torch.float32, torch.bfloat16
MLSTM_HEADS = (128, 256), (256, 512), (32, 64), (16, 32), (24, 40)  # keys and values; the last is no power of two
# Keys, values and the decays of a head; a head's width and its state; some are no powers of two.
LAYERS = (
    "[gdn]", "[gdn(key_heads=1,conv=1,gate=none,allow_neg_eigval=true)]",
    "[gdn(gate=sigmoid,norm_eps=.1,conv_bias=true)]",
    "[kda]", "[kda(lower_bound=-5,gate_bias=true)]", "[kda(low_rank=false)]", "[mamba2]",
    "[mamba2(groups=2,heads=4,dt_min=.1,dt_max=.4)]", "[mamba2(gate_norm=none)]", "[mamba2(gate_norm=all,groups=2)]",
    "[conv]", "[rglru]", "[mla]", "[mla(q_rank=8)]", "[mlstm, swa:4]", "[mlstm | gdn]",
)  # fmt: skip
DELTA_HEADS = (128, 128, 1), (192, 384, 1), (256, 512, 1), (128, 128, 128), (24, 40, 24), (12, 5, 1)
SSD_HEADS = (64, 128), (80, 128), (24, 16), (5, 3)
ATTENTION_HEADS = (128, 128), (64, 64), (256, 64), (24, 12), (32, 0)  # channels, and those that turn


def mlstm_steps() -> str:
    """Of two tokens of one row."""
    mlstm_step._TOKENS, mlstm_step._ROWS = 2, 1
    faults = (mlstm_step._fault(CPU, dtype, *heads) for dtype in TYPES for heads in MLSTM_HEADS)
    return next(filter(None, faults), "")


def attention_steps() -> str:
    """Rings that are cut into parts, and short ones with windows, documents, caps, sinks and gates."""
    attention_step._TOKENS = 2
    faults = (attention_step._fault(CPU, dtype, *heads) for dtype in TYPES for heads in ATTENTION_HEADS)
    return next(filter(None, faults), "")


def delta_steps() -> str:
    """Of Gated DeltaNet and Kimi Delta Attention."""
    delta_step._TOKENS, delta_step._ROWS = 2, 1
    faults = (delta_step._fault(CPU, dtype, *heads) for dtype in TYPES for heads in DELTA_HEADS)
    return next(filter(None, faults), "")


def ssd_steps() -> str:
    """Of Mamba-2."""
    ssd_step._TOKENS, ssd_step._ROWS = 2, 1
    faults = (ssd_step._fault(CPU, dtype, *heads) for dtype in TYPES for heads in SSD_HEADS)
    return next(filter(None, faults), "")


def convolution_steps() -> str:
    """Of short convolutions."""
    return next(filter(None, (convolution_step._fault(CPU, dtype) for dtype in TYPES)), "")


@torch.no_grad()
def layers() -> str:
    """What layers hand these kernels: decoders as on a GPU, after a prompt, against a call with all tokens."""
    packed.on_gpu, os.environ["HYBRIDKIT_STEP"] = (lambda weight: True), "triton"  # type: ignore[assignment]
    for pattern in LAYERS:
        torch.manual_seed(0)
        model = hybridkit.build(pattern, width=32, heads=2, vocab=64)
        for name, weight in model.named_parameters():
            if not name.endswith("A_log"):
                weight.uniform_(-0.7, 0.7)
        ids = torch.randint(64, (2, 9))
        whole, (_, states) = model(ids)[0], model(ids[:, :6])
        steps, held = [layer.decoder(2) for layer in model.layers], model.reserve(states, 9)
        for t in range(6, 9):
            logits, held = model.run_steps(steps, ids[:, t], held)
            if fault := difference([f"token {t} of {pattern}"], [logits], [whole[:, t]], torch.float32):
                return fault
    return ""


GATES: dict[str, Callable[[], str]] = {
    "mlstm_step": mlstm_steps,
    "attention_step": attention_steps,
    "delta_step": delta_steps,
    "ssd_step": ssd_steps,
    "convolution_step": convolution_steps,
    "layers": layers,
    "mlstm": lambda: mlstm_fault("triton", CPU, torch.float32, HEAD, HEAD),
    "mamba2": lambda: ssd_fault("fla", CPU, torch.float32, 1, HEAD, HEAD),
    "gdn": lambda: delta_fault("fla", CPU, torch.float32, 1, HEAD, HEAD),
    "kda": lambda: delta_fault("fla", CPU, torch.float32, HEAD, HEAD, HEAD),
}


class Index(int):
    """A loop's counter, which kernels may convert to another integer type; the interpreter hands them plain ints."""

    def to(self, dtype: object) -> Index:
        """The same number."""
        return self


def counters(*limits: object) -> Iterator[Index]:
    """`range`, with counters as kernels expect them."""
    return map(Index, range(*(int(limit) for limit in limits)))  # type: ignore[call-overload]


def prepare() -> None:
    """No timing of variants, which needs a card: the first one runs. Loops of fla's kernels get such counters."""
    from triton.runtime.autotuner import Autotuner

    Autotuner._bench = lambda self, *args, **settings: [1.0, 1.0, 1.0]
    if find_spec("fla") is None:
        return
    import fla.ops.gated_delta_rule
    import fla.ops.kda
    import fla.ops.simple_gla  # noqa: F401

    for name, module in list(sys.modules.items()):
        if name.startswith("fla.ops"):
            vars(module)["range"] = counters


def main() -> int:
    """The exit code: 1 if a kernel failed its gate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", nargs="*", choices=[*GATES, []], metavar="KERNEL", help="all, if none is named")
    names = parser.parse_args().kernels or list(GATES)
    if find_spec("triton") is None:
        sys.exit("triton is not installed: a version that the text of --help names is needed, but no GPU")
    prepare()
    failed = False
    for name in names:
        began, fault = time.perf_counter(), GATES[name]()
        failed |= bool(fault)
        print(f"{name}: {fault or 'agrees with the own form'}, {time.perf_counter() - began:.0f} s", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
