"""What figures depend on beside the recipe of a run: threads, the kind of device, the precision that `auto` chooses."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch

from hybridkit.runs.manifest import Manifest

THREADS = 64  # that any machine can start, however few processors it has


def keep_arithmetic(manifest: Manifest, about: Mapping[str, Any], tell: Callable[[str], object]) -> None:
    """Use as many threads as the run did so far, where possible, and tell what is computed otherwise than so far.

    `about`: what a manifest would say now. Older manifests say neither device nor precision.
    """
    _same_threads(manifest.threads, tell)
    for name, said in (("device", manifest.device), ("precision", manifest.precision)):
        if said not in (None, about[name]):
            tell(
                f"{name}: {about[name]}, and {said} so far, so that the rest is not what this run would have been;"
                f" train.{name}={said} asks for it"
            )


def _same_threads(threads: int, tell: Callable[[str], object]) -> None:
    """Sums round differently with other numbers of threads."""
    own = torch.get_num_threads()
    if threads > max(own, THREADS, os.cpu_count() or 1):
        tell(f"this run used {threads} threads, more than can be had here: {own}, and sums round otherwise")
    elif threads != own:
        tell(f"using {threads} threads, as this run did so far, instead of {own}")
        torch.set_num_threads(threads)
