"""What a run would need, as `train --dry-run` prints it."""

from collections.abc import Mapping
from typing import Any

from hybridkit.report.numbers import format_bytes
from hybridkit.system.terminal import say


def print_estimate(estimate: Mapping[str, Any]) -> None:
    """A line for each thing that `hybridkit.training.estimate.estimate` found."""
    _print_rows(estimate)
    say("dry run: nothing was allocated, read or written")


def print_stages(found: Mapping[str, Any]) -> None:
    """What `hybridkit.convert.estimate.estimate_conversion` found, a paragraph for every stage."""
    teacher = found["teacher"]
    say(f"{'teacher':<14} {teacher['pattern']}, {teacher['parameters']:,} parameters")
    for stage in found["stages"]:
        say("")
        say(f"{'stage':<14} {stage['stage']}")
        _print_rows(stage)
    say("")
    say("dry run: no weights were read, and nothing was trained or kept")


def _print_rows(estimate: Mapping[str, Any]) -> None:
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
    if "teacher" in memory:
        rows["  teacher"] = f"{format_bytes(memory['teacher'])} of weights beside the student's"
    for name, said in rows.items():
        say(f"{name:<14} {said}")
