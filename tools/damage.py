"""Ways in which a file of a checkpoint can be spoiled, and whether a run notices."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

Damage = Callable[[Path, random.Random], bytes]  # a file -> what will stand there instead


def _flipped(path: Path, draw: random.Random) -> bytes:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return bytes(content)


def _cut(path: Path, draw: random.Random) -> bytes:
    content = path.read_bytes()
    return content[: draw.randrange(len(content))]


def _zeroed(path: Path, draw: random.Random) -> bytes:
    """A block that was never written, as after a loss of power."""
    content = path.read_bytes()
    written = [begin for begin in range(0, len(content), 512) if any(content[begin : begin + 512])]  # zeros stay zeros
    begin = draw.choice(written)
    zeros = bytes(len(content[begin : begin + 512]))
    return content[:begin] + zeros + content[begin + 512 :]


def _longer(path: Path, draw: random.Random) -> bytes:
    return path.read_bytes() + draw.randbytes(draw.randint(1, 64)) + b"\0"


def _older(path: Path, draw: random.Random) -> bytes:
    """The file of the checkpoint before: sound in itself, and of the same size where it holds tensors."""
    return (path.parent.parent / "step-4" / path.name).read_bytes()


def _shuffled(path: Path, draw: random.Random) -> bytes:
    content = path.read_bytes()
    place = draw.randrange(1, len(content))
    return content[place:] + content[:place]


DAMAGES: dict[str, Damage] = {
    "a flipped bit": _flipped,
    "a cut": _cut,
    "another flipped bit": _flipped,
    "a block of zeros": _zeroed,
    "another cut": _cut,
    "bytes behind the end": _longer,
    "the file of an older checkpoint": _older,
    "two parts swapped": _shuffled,
}


def spoil(path: Path, kind: str, draw: random.Random) -> None:
    """Put something else in the file's place: zeros over zeros, as optimizers hold them, are drawn again."""
    good = path.read_bytes()
    while (bad := DAMAGES[kind](path, draw)) == good:
        pass
    path.write_bytes(bad)


def newest_before(run: Path, damaged: int) -> str | None:
    """What is wrong: None where step `damaged` is passed over with a reason and an older checkpoint taken."""
    from hybridkit.runs.run import Run

    found = Run(run).newest()
    if found.checkpoint is None:
        return "no checkpoint was taken"
    if found.checkpoint.step >= damaged:
        return "it was taken"
    return None if found.skipped.get(f"step-{damaged}") else "no reason was given"


def each_byte(run: Path, draw: random.Random) -> Iterator[str]:
    """Change each byte of every file of the newest checkpoint, one at a time, and look whether that is found."""
    from hybridkit.runs.manifest import Invalid
    from hybridkit.runs.run import Run

    checkpoint = next(Run(run).checkpoints())
    checkpoint.check()
    for path in sorted(checkpoint.folder.iterdir()):
        good = path.read_bytes()
        with path.open("r+b", buffering=0) as file:
            for place, byte in enumerate(good):
                for value in (byte ^ 1 << draw.randrange(8), byte):  # spoiled, and as it was
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
