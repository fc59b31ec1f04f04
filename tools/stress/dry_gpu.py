"""Run a program on a GPU that is not there: a dry H100, on which no kernel runs.

    python tools/stress/dry_gpu.py [--counts FILE] COMMAND [ARGUMENT...]
    python tools/stress/dry_gpu.py python tools/gpu_check.py --only first_step training

All that a program does on the host is real: torch's allocator and what it holds at most, torch.compile with Triton's
compiler down to machine code, autograd's threads, CUDA graphs, files. No value is computed: tensors on "cuda" hold
zeros or what was copied to them, so checks of values fail, but for those before a library's kernels, which are taken as
passed; what depends on values (a boolean mask as index) may take any size. Times mean nothing. cuDNN is off; NCCL gives
each rank its own data back. --counts writes what was launched, a line each: launches, threads (or FLOPs), name.

It needs a CUDA build of torch (2.11 with CUDA 13 was tried), triton, a C compiler and `nm`, and no GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

RUNTIME, CUBLAS, DRIVER, NCCL = (
    Path(__file__).with_name(f"dry_gpu_{part}.c") for part in ("runtime", "cublas", "driver", "nccl")
)
CALLED = r" U ((?:__cuda(?:Launch|GetKernel)|cuda[A-Z]|cublas|cu[A-Z]|nccl[A-Z])\w*)"
LOOKED_UP = (
    "cuCtxGetLimit", "cuCtxSetLimit", "cuCtxSynchronize", "cuInit", "cuModuleGetGlobal_v2", "cuPointerGetAttributes",
)  # fmt: skip  # by Triton, by name
# Loaded by every Python of the program: a check's zeros would differ from themselves, by 0 / 0.
HOOK = """
import importlib.abc, importlib.util, sys
class Checks(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "hybridkit_blocks.ops.kernel_gate":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        def run(module):
            import torch
            torch.backends.cuda.enable_cudnn_sdp(False)
            load(module)
            module.difference = lambda *given, **options: ""
        spec.loader.exec_module = run
        return spec
sys.meta_path.insert(0, Checks())
"""


def packages() -> Path:
    """Where torch and its CUDA libraries are installed. Ends the program where torch has no CUDA."""
    torch = importlib.util.find_spec("torch")
    folder = Path(torch.origin).parents[1] if torch and torch.origin else None
    if folder is None or not (folder / "torch/lib/libtorch_cuda.so").exists():
        sys.exit("this needs a torch that is built with CUDA; a GPU it does not need")
    return folder


def called(libraries: list[Path]) -> set[str]:
    """The functions of CUDA, cuBLAS and NCCL that libraries call."""
    said = subprocess.run(
        ["nm", "-D", "--undefined-only", *libraries], capture_output=True, encoding="utf-8", check=True
    )
    return set(re.findall(CALLED, said.stdout))


def build(into: Path) -> None:
    """The two libraries; whatever their sources do not define is a function that returns 0."""
    found = packages()
    names = called(sorted((found / "torch/lib").glob("lib*.so"))) | set(LOOKED_UP)
    headers = [f"-I{found / 'nvidia/cu13/include'}", f"-I{found / 'triton/backends/nvidia/include'}"]
    parts = {
        "runtime.so": ([RUNTIME, CUBLAS, NCCL], "(?:__)?cuda|cublas|nccl", headers),
        "libcuda.so.1": ([DRIVER], "cu[A-Z]", ["-Wl,-soname,libcuda.so.1"]),
    }
    for file, (sources, wanted, options) in parts.items():
        own = "".join(source.read_text(encoding="utf-8") for source in sources)
        rest = [name for name in sorted(names) if re.match(wanted, name) and not re.search(rf"\b{name}\(", own)]
        code = into / f"{file}.c"  # apart from the sources, whose headers declare them with arguments
        code.write_text("".join(f"int {name}() {{ return 0; }}\n" for name in rest), encoding="utf-8")
        command = ["gcc", "-shared", "-fPIC", "-O1", "-w", *options, *map(str, sources), str(code), "-ldl"]
        subprocess.run([*command, "-o", str(into / file)], check=True)


def main() -> int:
    """The program's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=Path, metavar="FILE")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if not given.command:
        parser.error("which program?")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        build(folder)
        (folder / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
        before = os.environ.get("PYTHONPATH")
        own = {
            "LD_PRELOAD": str(folder / "runtime.so"),
            "LD_LIBRARY_PATH": made,
            "TRITON_LIBCUDA_PATH": made,
            "PYTHONPATH": made if not before else os.pathsep.join([made, before]),
            "XDG_CACHE_HOME": str(folder / "cache"),  # no verdict of a check that was not one is kept
        }
        if given.counts:
            own["DRY_GPU_COUNTS"] = str(given.counts.resolve())
        return subprocess.run(given.command, env=os.environ | own).returncode


if __name__ == "__main__":
    sys.exit(main())
