"""Ways to corrupt a file of a checkpoint, and checks that a run detects it. Imported by `fault_injection.py`."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

Corruption = Callable[[Path, random.Random], bytes]  # file -> its new content


def _flipped(path: Path, draw: random.Random) -> bytes:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return bytes(content)


def _cut(path: Path, draw: random.Random) -> bytes:
    content = path.read_bytes()
    return content[: draw.randrange(len(content))]


def _zeroed(path: Path, draw: random.Random) -> bytes:
    """A block of zeros, as after a loss of power."""
    content = path.read_bytes()
    written = [begin for begin in range(0, len(content), 512) if any(content[begin : begin + 512])]  # not zero yet
    begin = draw.choice(written)
    zeros = bytes(len(content[begin : begin + 512]))
    return content[:begin] + zeros + content[begin + 512 :]


def _longer(path: Path, draw: random.Random) -> bytes:
    return path.read_bytes() + draw.randbytes(draw.randint(1, 64)) + b"\0"


def _older(path: Path, draw: random.Random) -> bytes:
    """The same file of the checkpoint before, which is valid by itself and, for tensors, of equal size."""
    return (path.parent.parent / "step-4" / path.name).read_bytes()


def _shuffled(path: Path, draw: random.Random) -> bytes:
    content = path.read_bytes()
    place = draw.randrange(1, len(content))
    return content[place:] + content[:place]


CORRUPTIONS: dict[str, Corruption] = {
    "a flipped bit": _flipped,
    "a cut": _cut,
    "another flipped bit": _flipped,
    "a block of zeros": _zeroed,
    "another cut": _cut,
    "bytes behind the end": _longer,
    "the file of an older checkpoint": _older,
    "two parts swapped": _shuffled,
}


def corrupt(path: Path, kind: str, draw: random.Random) -> None:
    """Replace the content of a file by a different one: a corruption that changes nothing is drawn again."""
    good = path.read_bytes()
    while (bad := CORRUPTIONS[kind](path, draw)) == good:
        pass
    path.write_bytes(bad)


def detection_error(run: Path, corrupted: int) -> str | None:
    """What is wrong; None where step `corrupted` is skipped with a reason and an older checkpoint is used."""
    from hybridkit.runs.run import Run

    found = Run(run).newest()
    if found.checkpoint is None:
        return "no checkpoint was used"
    if found.checkpoint.step >= corrupted:
        return "the corrupted checkpoint was used"
    return None if found.skipped.get(f"step-{corrupted}") else "no reason was given"


def each_byte(run: Path, draw: random.Random) -> Iterator[str]:
    """Change each byte of every file of the newest checkpoint, one at a time, and check that this is detected."""
    from hybridkit.runs.manifest import Invalid
    from hybridkit.runs.run import Run

    checkpoint = next(Run(run).checkpoints())
    checkpoint.check()
    for path in sorted(checkpoint.folder.iterdir()):
        good = path.read_bytes()
        with path.open("r+b", buffering=0) as file:
            for place, byte in enumerate(good):
                for value in (byte ^ 1 << draw.randrange(8), byte):  # changed, then restored
                    file.seek(place)
                    file.write(bytes([value]))
                    if value == byte:
                        continue
                    try:
                        checkpoint.check()
                    except Invalid:
                        yield "found"
                    else:
                        yield f"WRONG: byte {place} of {path.name}"
        checkpoint.check()
