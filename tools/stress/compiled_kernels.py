"""The project's own Triton kernels, compiled for a GPU that is not there: down to the machine code of its generation.

    python tools/stress/compiled_kernels.py [--arch 90]

What Triton's interpreter runs (interpreted_kernels.py), its compiler may still refuse. Kernels are compiled with the
arguments that the code of a decoding step hands them, for the heads of all shipped recipes, in fp32 and bf16. Nothing
runs. Needs triton (3.6 to 3.8), and no GPU; about two minutes. Exit code 1 if a kernel does not compile.
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from typing import Any

import torch
from interpreted_kernels import ATTENTION_HEADS, CPU, DELTA_HEADS, MLSTM_HEADS, SSD_HEADS, TYPES
from torch import Tensor

from hybridkit_blocks.ops import attention_step, convolution_step, delta_step, mlstm_step, ssd_step

NAMES = {
    torch.float32: "fp32", torch.bfloat16: "bf16", torch.float64: "fp64", torch.int64: "i64", torch.int32: "i32",
}  # fmt: skip


class Compiled:
    """In a kernel's place: compiles it for the arguments of a call, once for all calls that are alike."""

    def __init__(self, kernel: Any, arch: int) -> None:
        self._kernel, self._arch, self._done = kernel, arch, set[str]()

    def __getitem__(self, grid: object) -> Any:
        return self._compile

    def _compile(self, *arguments: object, num_warps: int, **constants: object) -> None:
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource, compile

        given = dict(zip(self._kernel.arg_names, arguments, strict=False)) | constants
        signature, fixed = dict[str, str](), dict[tuple[int], object]()
        for place, parameter in enumerate(self._kernel.params):
            signature[parameter.name] = kind = _kind(given[parameter.name], parameter.is_constexpr)
            if kind == "constexpr":
                fixed[(place,)] = given[parameter.name]
        case = repr((signature, fixed, num_warps))
        if case not in self._done:
            source, target = ASTSource(self._kernel, signature, fixed), GPUTarget("cuda", self._arch, 32)
            compile(source, target=target, options={"num_warps": num_warps})
            self._done.add(case)

    def __len__(self) -> int:
        return len(self._done)


def _kind(value: object, is_constant: bool) -> str:
    """The type as Triton calls it; what a call would specialise on, an integer of 1 among it, is a constant."""
    if is_constant or value is None or (isinstance(value, int) and value == 1):
        return "constexpr"
    if isinstance(value, Tensor):
        return "*" + NAMES[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


def main() -> int:
    """The exit code: 1 if a kernel does not compile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, default=90, help="the GPU's compute capability, without the point")
    arch = parser.parse_args().arch
    if find_spec("triton") is None:
        sys.exit("triton is not installed: 3.6 to 3.8 is needed, but no GPU")
    from hybridkit_blocks.ops.cuda import attention_step as attention_kernels
    from hybridkit_blocks.ops.cuda import convolution_step as convolution_kernels
    from hybridkit_blocks.ops.cuda import delta_step as delta_kernels
    from hybridkit_blocks.ops.cuda import gated_norm
    from hybridkit_blocks.ops.cuda import mlstm_step as mlstm_kernels
    from hybridkit_blocks.ops.cuda import ssd_step as ssd_kernels

    mlstm_step._TOKENS, mlstm_step._ROWS, attention_step._TOKENS = 2, 1, 2
    delta_step._TOKENS = ssd_step._TOKENS = 2
    places = (
        (mlstm_kernels, "_step"), (attention_kernels, "_parts"), (attention_kernels, "_joined"),
        (delta_kernels, "_columns"), (ssd_kernels, "_rows"), (gated_norm, "_gated"),
        (convolution_kernels, "_convolved"),
    )  # fmt: skip
    kernels = {place: Compiled(getattr(*place), arch) for place in places}
    for (module, name), kernel in kernels.items():
        setattr(module, name, kernel)
    failed = False
    checks: list[tuple[Any, tuple[tuple[int, ...], ...]]] = [
        (mlstm_step._fault, MLSTM_HEADS), (attention_step._fault, ATTENTION_HEADS), (delta_step._fault, DELTA_HEADS),
        (ssd_step._fault, SSD_HEADS), (convolution_step._fault, ((),)),
    ]  # fmt: skip
    for check, cases in checks:
        for heads in cases:
            for dtype in TYPES:
                try:
                    check(CPU, dtype, *heads)  # what it says of figures means nothing: no kernel has run
                except Exception as error:  # whatever the compiler says
                    failed = True
                    print(f"{check.__module__}, heads of {heads}, {dtype}: {type(error).__name__}: {error}", flush=True)
    for (_, name), kernel in kernels.items():
        print(f"{name}: compiled in {len(kernel)} forms", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
