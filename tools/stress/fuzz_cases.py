"""The cases of tools/stress/fuzz.py: the inputs of each kind, and the functions that read them."""

import json
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import test_files
import test_parser
import test_run
import test_yaml_reader
import torch
from fuzz_tokens import TOKENS
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from safetensors.torch import save

from hybridkit.language.parser import parse_pattern
from hybridkit.model.config import ModelConfig
from hybridkit.model.loading import plan
from hybridkit.model.plan import compile_pattern
from hybridkit.recipe.files import dump
from hybridkit.recipe.schema import Recipe
from hybridkit.report.curves import curves_of, draw_curves, print_curves
from hybridkit.report.figure import save_figure
from hybridkit.runs.manifest import Invalid, Manifest, Stamp, read_manifest, sealed
from hybridkit.runs.metrics import read_metrics
from hybridkit.runs.run import Checkpoint, Run, load_recipe
from hybridkit.runs.weights import read_tensors
from hybridkit.training.callback import TrainingStart
from hybridkit.training.loggers._event_file import EventWriter
from hybridkit.training.state import TrainState, load_train_state

DTYPES = "F64 F32 F16 BF16 I64 I8 U8 U64 BOOL F8_E4M3 F8_E8M0 F4 C64 X"
LIMIT = 1 << 20  # bytes of the largest file that is read


class Case(NamedTuple):
    """An input, and what reads it."""

    content: bytes
    read: Callable[[bytes], object]


class Kind(NamedTuple):
    """Cases of one kind: `cases(run)` calls `run` with each; `bounded`: time and memory are limited.

    `warm` are cases that run first without limits, so that imports do not count.
    """

    name: str
    warm: Sequence[Case]
    cases: Callable[[Callable[[Case], None]], None]
    bounded: bool


def kinds(count: int, number: int) -> Iterator[Kind]:
    """All kinds; the first four have `count` cases together. `number` is the seed of all of them."""
    files = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))
    for path in files:
        Path(path.name).write_bytes(path.read_bytes())  # some extend others
    recipes = [path.read_bytes() for path in files]
    patterns = [load_pattern(text) for text in recipes]
    patterns += [text.encode() for text in test_parser.GOOD]
    few = max(1, count // 20)
    for name, seeds, strategy, read, cases, bounded in (
        ("recipes", recipes, _recipes(), _read_recipe, count // 4, True),
        ("patterns", patterns, _patterns(), _read_pattern, count // 4, True),
        ("manifests", [_manifest(), _state()], _json(), _read_manifest, count // 4, True),
        ("metrics", [_metrics()], _json(), _read_metrics, count // 4, True),
        (
            "tensors",
            [save({"a": torch.ones(3, 2), "b": torch.zeros(2, dtype=torch.int64), "c": torch.zeros(4).bfloat16()})],
            _headers(),
            _read_tensors,
            few,
            True,
        ),
        ("verbs", recipes, _recipes(), _read_verbs, few, False),
    ):
        warm = [Case(content, read) for content in (seeds[0], b"")]
        yield Kind(name, warm, _both(seeds, strategy, read, cases, number), bounded)


def _both(
    seeds: Sequence[bytes], strategy: st.SearchStrategy[bytes], read: Callable[[bytes], object], count: int, number: int
) -> Callable[[Callable[[Case], None]], None]:
    """Half of the cases are mutations of `seeds`, half come from the strategy."""

    def cases(one: Callable[[Case], None]) -> None:
        draw = random.Random(number)
        for _ in range(count - count // 2):
            one(Case(mutated(seeds, draw), read))

        @seed(number)
        @settings(
            max_examples=max(1, count // 2), deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(strategy)
        def made(content: bytes) -> None:
            one(Case(content, read))

        made()

    return cases


def mutated(seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """One of `seeds` after a few changes of bytes, words and lines; one in forty is then enlarged to the limit."""
    content = draw.choice(seeds)
    for _ in range(draw.choice([1, 1, 1, 2, 2, 4])):
        content = draw.choice(CHANGES)(content, seeds, draw)[: 2 * LIMIT]
    if draw.random() < 0.025:
        begin = draw.randrange(len(content) + 1)
        piece = content[begin : begin + draw.randint(1, 12)] if draw.random() < 0.5 else draw.choice(TOKENS)
        times = draw.choice([1000, 4097, 65536, LIMIT]) // max(1, len(piece)) + 1
        content = content[:begin] + piece * times + content[begin:]
    return content


def _span(content: bytes, draw: random.Random) -> tuple[int, int]:
    begin = draw.randrange(len(content) + 1)
    return begin, begin + draw.choice([0, 1, 1, 2, 5, 20])


def _put(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    begin, end = _span(content, draw)
    return content[:begin] + draw.choice([draw.choice(TOKENS), draw.randbytes(draw.randint(1, 4))]) + content[end:]


def _twice(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    begin, end = _span(content, draw)
    return content[:end] + content[begin:]


def _flip(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    if not content:
        return b"\0"
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]


def _cut(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def _splice(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    other = draw.choice(seeds)
    return content[: draw.randrange(len(content) + 1)] + other[draw.randrange(len(other) + 1) :]


def _lines(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    lines = content.split(b"\n")
    draw.shuffle(lines)
    return b"\n".join(lines[: draw.randint(1, len(lines))])


def _number(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """Replace a digit by another number."""
    places = [place for place, byte in enumerate(content) if chr(byte).isdigit()]
    if not places:
        return content
    place = draw.choice(places)
    value = draw.choice([b"0", b"-1", b"1.5", b"9" * 25, b"1e308", b"4097", b"65537", b"null", b"[]", b"x"])
    return content[:place] + value + content[place + 1 :]


CHANGES = [_put, _put, _put, _twice, _flip, _cut, _splice, _lines, _number]


def load_pattern(recipe: bytes) -> bytes:
    """The first line of the pattern of a shipped recipe."""
    lines = [line for line in recipe.splitlines() if line.startswith(b"pattern:")]
    return lines[0].partition(b":")[2].strip() if lines else b"sa"


def _recipes() -> st.SearchStrategy[bytes]:
    texts = test_files.mutated | test_files.recipes.map(dump) | test_yaml_reader.garbage
    return texts.map(lambda text: text.encode("utf-8", "surrogatepass"))


def _patterns() -> st.SearchStrategy[bytes]:
    some = st.lists(st.sampled_from(test_parser.TOKENS), max_size=30).map("".join) | st.text(max_size=30)
    damaged = st.tuples(st.sampled_from(test_parser.GOOD), st.integers(0, 40), st.integers(0, 4), some).map(
        lambda parts: parts[0][: parts[1]] + parts[3] + parts[0][parts[1] + parts[2] :]
    )
    return (some | damaged).map(lambda text: text.encode("utf-8", "surrogatepass"))


def _json() -> st.SearchStrategy[bytes]:
    return test_run.JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60)


def _headers() -> st.SearchStrategy[bytes]:
    size = st.integers(-1, 9) | st.sampled_from([2**31, 2**63 - 1, 2**64])
    entry = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(DTYPES.split()),
            "shape": st.lists(size, max_size=4),
            "data_offsets": st.lists(size, min_size=1, max_size=3),
        }
    )
    header = st.dictionaries(st.text(max_size=5) | st.just("__metadata__"), entry | test_run.JSON, max_size=3)
    return st.tuples(header.map(lambda value: json.dumps(value).encode()), st.binary(max_size=40)).map(
        lambda parts: struct.pack("<Q", len(parts[0])) + parts[0] + parts[1]
    )


def _manifest() -> bytes:
    files = {name: Stamp(bytes=3, sha256="0" * 64) for name in ("model.safetensors", "state.json")}
    return sealed(
        Manifest(
            step=1, engine="local", zero=0, ranks=1, threads=1, versions={"torch": "2"}, data="d", model="m",
            files=files,
        )
    )  # fmt: skip


def _state() -> bytes:
    return TrainState(step=1, position=1, recent=[1.0, 2.5]).model_dump_json().encode()


def _metrics() -> bytes:
    step = {"loss": 5.9, "lr": 1e-3, "grad_norm": 2.5, "window": 4, "tokens": 128, "seconds": 0.1}
    step |= {"tokens_per_second": 1e4, "mfu": 0.1}
    lines = [{"step": number, **step} for number in range(1, 6)]
    lines.insert(3, {"step": 3, "val_loss": 2.0, "val_bits_per_byte": 3.0})
    lines.append({"step": 6, **step, "window": {"0": 4, "2": 16}})
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def _read_recipe(content: bytes) -> None:
    """Read and compile a recipe; write it and read it again."""
    Path("r.yaml").write_bytes(content)
    loaded = load_recipe("r.yaml")
    plan(loaded)
    Path("again.yaml").write_text(dump(loaded.recipe), encoding="utf-8")
    assert load_recipe("again.yaml").recipe == loaded.recipe


def _read_pattern(content: bytes) -> None:
    """Compile a pattern; its canonical form must compile to the same entries."""
    text = content.decode("utf-8", "surrogatepass") if content.isascii() else content.decode("utf-8", "surrogateescape")
    parse_pattern(text)
    plan_ = compile_pattern(text, ModelConfig(width=64, heads=4, vocab=257))
    assert compile_pattern(plan_.pattern, plan_.config).entries == plan_.entries


def _read_manifest(content: bytes) -> None:
    """Read the content as a manifest, as a manifest with a correct hash, and as state.json."""
    folder = Path("run/checkpoints/step-1")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("manifest.json", "state.json", "model.safetensors"):
        (folder / name).write_bytes(content)
    found = Run("run").newest()
    assert found.checkpoint is None and found.skipped["step-1"]
    refused = 0
    (folder / "manifest.json").write_bytes(test_run._seal(content))
    for reader in (lambda: read_manifest(folder), lambda: load_train_state(Checkpoint(folder, 1))):
        try:
            reader()
        except Invalid:
            refused += 1
    if refused == 2:
        raise Invalid("neither a manifest nor a state")


def _read_metrics(content: bytes) -> None:
    """Read metrics; write them to TensorBoard, print and draw their curves."""
    Path("m").mkdir(exist_ok=True)
    Path("m/metrics.jsonl").write_bytes(content)
    found = read_metrics(Path("m/metrics.jsonl"))
    board = EventWriter(Recipe(pattern="sa"))
    board.on_start(TrainingStart(Path("m"), 0, 1, found.lines))
    board.on_end()
    curves = curves_of([Path("m")])
    print_curves(curves)
    json.dumps(curves[0].summary())
    if len(content) % 50 == 0:
        save_figure(draw_curves(curves), Path("m.svg"))
    if found.damaged and not found.lines:
        raise Invalid("no valid line")


def _read_tensors(content: bytes) -> None:
    Path("w.safetensors").write_bytes(content)
    for tensor in read_tensors(Path("w.safetensors")).values():
        tensor.clone()


def _read_verbs(content: bytes) -> None:
    """Run the verbs that need a recipe alone."""
    from hybridkit.cli import verbs

    Path("r.yaml").write_bytes(content)
    for line in (["show"], ["show", "--json"], ["flops", "--json"], ["train", "--dry-run", "--json"]):
        verbs(line[:1])([line[0], "r.yaml", *line[1:]], standalone_mode=False)
