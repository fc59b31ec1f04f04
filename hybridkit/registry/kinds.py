"""What a recipe, a pattern or a command may name: a kind is a folder of files with one public class each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of thing that has names. Its classes share a base with `kind: ClassVar[str]`, which says `name`."""

    name: str  # in the singular: "block"
    package: str  # the import package whose files hold one public class each, named like the file
    subfolders: bool = False  # True: a folder of that package with an `__init__.py` holds one class, too

    @property
    def group(self) -> str:
        """The entry points by which installed packages bring classes of this kind, named like its folder."""
        return f"hybridkit.{self.package.rpartition('.')[2].removeprefix('hybridkit_')}"

    def __str__(self) -> str:
        return self.name


BLOCK = Kind("block", "hybridkit_blocks")
WINDOW = Kind("window", "hybridkit_blocks.windows")
