"""The example of each kind in CONTRIBUTING.md, as files of a folder outside the package."""

from pathlib import Path

from fences import fences

EXAMPLES = {text.partition(".py\n")[0].removeprefix("# "): text for text in fences("CONTRIBUTING.md", "python")}


def write_examples(folder: Path, *names: str) -> list[str]:
    """Put the files into a folder; the options that name them, relative to the folder above it."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}.py").write_text(EXAMPLES[name], encoding="utf-8")
    return [word for name in names for word in ("--plugin", f"{folder.name}/{name}.py")]
