"""What a run would need, as `train --dry-run` prints it."""

from collections.abc import Mapping
from typing import Any

from hybridkit.report.numbers import format_bytes
from hybridkit.system.terminal import say


def print_estimate(estimate: Mapping[str, Any]) -> None:
    """A line for each thing that `hybridkit.training.estimate.estimate` found."""
    e, memory = estimate, estimate["memory"]
    zero = f", ZeRO {e['zero']}" if e["zero"] else ""
    rows = {
        "pattern": e["pattern"],
        "parameters": f"{e['parameters']:,}",
        "engine": f"{e['engine']}{zero}, {e['ranks']} {'rank' if e['ranks'] == 1 else 'ranks'}, {e['precision']}",
        "steps": f"{e['steps']:,}",
        "tokens": f"{e['tokens']:,}",
        "cost": f"{e['flops']:.3e} FLOPs, {e['flops_per_token']:.3e} a token (forward and backward, exact)",
        "memory a rank": format_bytes(memory["total"]),
        "  held": f"{format_bytes(memory['held'])} of weights, gradients and optimizer",
        "  activations": f"{format_bytes(memory['activations'])} for micro-batches of {e['micro_batch']} sequences",
    }
    for name, said in rows.items():
        say(f"{name:<14} {said}")
    say("dry run: nothing was allocated, read or written")
