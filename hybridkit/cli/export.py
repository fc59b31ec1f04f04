"""`hybridkit export`: a run's weights and sizes for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from hybridkit.cli.options import Average, CheckpointName, Json, Plugins, RunFolder
from hybridkit.system.strict_json import format_json
from hybridkit.system.terminal import say


def export(
    run: RunFolder,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    format: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="`hf`: for transformers; `hybridkit`: for hybridkit; or a family that `blocks --all` lists.",
        ),
    ] = "hf",
    dtype: Annotated[
        str | None, typer.Option(metavar="TYPE", help="fp32, bf16 or fp16; by default as the weights are.")
    ] = None,
    checkpoint: CheckpointName = None,
    average: Average = False,
    push: Annotated[
        str | None, typer.Option(metavar="REPO", help="Also upload it to this repository of the Hugging Face Hub.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push: make a new repository public.")] = False,
    as_json: Json = False,
    plugin: Plugins = [],
) -> None:
    """Write a run's weights as a folder that transformers opens, with tokenizer and model card."""
    from hybridkit.hub.export import export_run as write

    made = write(run, folder, format, dtype, checkpoint, average)
    address = None
    if push:
        from hybridkit.hub.repository import push as upload

        address = upload(folder, push, public)
    if as_json:
        files = [str(path) for path in made.files]
        said = {"files": files, "family": made.family, "reasons": made.reasons, "note": made.note, "address": address}
        say(format_json(said))
        return
    say("\n".join(str(path) for path in made.files))
    alike: dict[str, list[str]] = {}
    for name, reason in made.reasons.items():
        alike.setdefault(reason, []).append(name)
    for reason, names in alike.items():
        say(f"not {', '.join(names)}: {reason}")
    if made.note:
        say(f"note: {made.note}")
    say(f"written as {made.family}" + (f", uploaded to {address}" if address else ""))
