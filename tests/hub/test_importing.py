"""Folders of strangers: what is not exactly a model that our blocks equal is refused in words, and nothing is lost."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint import LLAMA, VOCAB
from command_line import hybridkit as verb
from safetensors.torch import load_file, save_file
from torch import Tensor

import hybridkit
from hybridkit.hub.files import Shards, write_weights
from hybridkit.hub.importing import import_folder
from hybridkit.hub.tokenizer import byte_level
from hybridkit.runs.run import Run
from hybridkit.system.errors import UserError

CONFIG = {**LLAMA, "model_type": "llama", "num_hidden_layers": 1}
FILE = "model.safetensors"
DOWN = "model.layers.0.mlp.down_proj.weight"


def tensors() -> dict[str, Tensor]:
    shapes = {"model.embed_tokens": (VOCAB, 32), "lm_head": (VOCAB, 32), "model.norm": (32,)}
    layer = {
        "self_attn.q_proj": (32, 32), "self_attn.k_proj": (16, 32), "self_attn.v_proj": (16, 32),
        "self_attn.o_proj": (32, 32), "mlp.gate_proj": (48, 32), "mlp.up_proj": (48, 32), "mlp.down_proj": (32, 48),
        "input_layernorm": (32,), "post_attention_layernorm": (32,),
    }  # fmt: skip
    shapes |= {f"model.layers.0.{name}": shape for name, shape in layer.items()}
    draw = torch.Generator().manual_seed(0)
    return {f"{name}.weight": torch.randn(shape, generator=draw) for name, shape in shapes.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "theirs"
    place.mkdir()
    (place / "config.json").write_text(json.dumps(CONFIG))
    (place / "tokenizer.json").write_text(json.dumps(byte_level(), ensure_ascii=False), encoding="utf-8")
    save_file(tensors(), place / FILE)
    return place


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: (folder / "config.json").write_text(json.dumps(CONFIG | changes)) and None


def weights(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        held = tensors()
        change(held)
        save_file(held, folder / FILE)

    return run


def index(**places: str) -> Callable[[Path], None]:
    """Shards, with an index in which some tensors stand elsewhere."""

    def run(folder: Path) -> None:
        (folder / FILE).unlink()
        write_weights(folder, tensors().items(), limit=1 << 14)
        file = folder / f"{FILE}.index.json"
        said = json.loads(file.read_text())
        first = min(said["weight_map"].values())
        said["weight_map"] |= {
            name.replace("__", "."): first if place == "first" else place for name, place in places.items()
        }
        file.write_text(json.dumps(said))

    return run


class Trap:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("executed",))


def pickled(folder: Path) -> None:
    (folder / FILE).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))


def code(folder: Path) -> None:
    config(auto_map={"AutoModelForCausalLM": "modeling_x.X"}, model_type="strange")(folder)
    (folder / "modeling_x.py").write_text("import os\nos.mkdir('executed')\n")


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


def tokens(count: int) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        made = byte_level()
        made["model"]["vocab"] |= {f"x{n}": 257 + n for n in range(count)}
        (folder / "tokenizer.json").write_text(json.dumps(made))

    return run


def linked(name: str) -> Callable[[Path], None]:
    """A file of the folder moved beside it, with a link in its place."""

    def run(folder: Path) -> None:
        (folder / name).rename(folder.parent / "theirs.kept")
        (folder / name).symlink_to(folder.parent / "theirs.kept")

    return run


def normalizer(*content: str) -> Callable[[Path], None]:
    steps = [{"type": "Replace", "pattern": {"String": "l"}, "content": text} for text in content]
    made = {**byte_level(), "normalizer": {"type": "Sequence", "normalizers": steps}}
    return lambda folder: (folder / "tokenizer.json").write_text(json.dumps(made)) and None


def header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """A file of weights whose header says something else about the same bytes."""

    def run(folder: Path) -> None:
        raw = (folder / FILE).read_bytes()
        said = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        change(said)
        changed = json.dumps(said).encode()
        data = raw[8 + int.from_bytes(raw[:8], "little") :]
        (folder / FILE).write_bytes(len(changed).to_bytes(8, "little") + changed + data)

    return run


def twice(folder: Path) -> None:
    """A header in which the head stands once more, with the bytes of the embedding."""
    raw = (folder / FILE).read_bytes()
    said, data = raw[8 : (end := 8 + int.from_bytes(raw[:8], "little"))].decode().rstrip(), raw[end:]
    changed = f'{said[:-1]},"lm_head.weight":{json.dumps(json.loads(said)["model.embed_tokens.weight"])}}}'.encode()
    (folder / FILE).write_bytes(len(changed).to_bytes(8, "little") + changed + data)


def nan(held: dict[str, Tensor]) -> None:
    held[DOWN][3, 4] = torch.nan


HOSTILE = {
    "wild depth": (config(num_hidden_layers=10**12), "num_hidden_layers: 1000000000000: should be .* 1 to 4096"),
    "a depth without tensors": (config(num_hidden_layers=4096), "its 12 tensors are fewer than the 8192 mixers and"),
    "a key twice": (
        text("config.json", json.dumps(CONFIG)[:-1] + ', "rms_norm_eps": 0.5}'),
        "the key `rms_norm_eps` stands twice",
    ),
    "a long key": (config(**{"k" * 9999: 1}), f"config.json: {'k' * 60}: 1: this is not known here"),
    "wild width": (config(hidden_size=1 << 40), "hidden_size: .* should be a whole number"),
    "wild heads": (config(num_attention_heads=-1), "num_attention_heads: -1"),
    "wide FFN": (config(intermediate_size=1 << 24), r"gate_proj.* \[48, 32\], and by .* \[16777216, 32\]"),
    "no number": (config(rms_norm_eps="small"), "rms_norm_eps: 'small': should be a finite number above 0"),
    "odd heads": (config(num_key_value_heads=3), "cannot be built: .*kv_heads=3 does not divide 4"),
    "dropout": (config(attention_dropout=0.1), "attention_dropout: 0.1: no block here computes that"),
    "a bias": (config(attention_bias=True), "self_attn.*bias is missing, which the config asks for"),
    "another activation": (config(hidden_act="gelu"), "hidden_act: 'gelu'"),
    "unknown field": (config(new_trick=7), "new_trick: 7: this is not known here"),
    "scaled positions": (config(rope_scaling={"type": "mystery", "factor": 2.0}), "rope_scaling: .*mystery"),
    "positions of no kind": (config(rope_parameters={"rope_type": [], "rope_theta": 1e4}), "rope_parameters: .* type"),
    "a number too large": (config(rms_norm_eps=10**400), "rms_norm_eps: .* should be a finite number above 0"),
    "quantized": (config(quantization_config={"bits": 4}), "quantization_config"),
    "unknown model": (config(model_type="lama"), "no family here reads 'lama'; did you mean `llama`?"),
    "code": (code, r"no family here reads 'strange'; and its code \(auto_map\) is never run"),
    "code of a known model": (config(auto_map={"AutoModel": "x.X"}), "auto_map: .* never run"),
    "a list": (text("config.json", "[]"), "should be an object"),
    "no JSON": (text("config.json", "{'a': 1}"), "not JSON"),
    "deep JSON": (text("config.json", "[" * 100_000), "not JSON"),
    "missing": (weights(lambda held: held.pop(DOWN)), f"{DOWN} is missing"),
    "renamed": (weights(lambda held: held.update({DOWN + "s": held.pop(DOWN)})), f"missing.*{DOWN}s is there"),
    "extra": (weights(lambda held: held.update(more=torch.ones(2))), "more has no place"),
    "misshapen": (weights(lambda held: held.update({DOWN: torch.ones(48, 32)})), r"\[48, 32\], and by .* \[32, 48\]"),
    "integers": (weights(lambda held: held.update({DOWN: held[DOWN].char()})), f"{DOWN} is of type I8"),
    "NaN": (weights(nan), f"{DOWN} holds numbers that are not finite"),
    "offsets outside": (header(lambda said: said[DOWN].update(data_offsets=[0, 1 << 40])), "can be read: .*offset"),
    "offsets that overlap": (
        header(lambda said: said[DOWN].update(data_offsets=said["lm_head.weight"]["data_offsets"])),
        "can be read: .*offset",
    ),
    "a wild shape": (header(lambda said: said[DOWN].update(shape=[1 << 40, 1 << 40])), "can be read: .*overflow"),
    "a header without end": (
        lambda folder: (folder / FILE).write_bytes((1 << 62).to_bytes(8, "little") + b"{}") and None,
        "can be read: .*header too large",
    ),
    "8-bit floats": (weights(lambda held: held.update({DOWN: held[DOWN].to(torch.float8_e4m3fn)})), "type F8_E4M3"),
    "cut": (lambda folder: os.truncate(folder / FILE, 3000), "not a safetensors file"),
    "pickle": (pickled, "pytorch_model.bin: a pickle, which can run code"),
    "no weights": (lambda folder: (folder / FILE).unlink(), f"no {FILE}"),
    "outside": (index(lm_head__weight="../secret.safetensors"), "'../secret.safetensors' is not the name of"),
    "absolute": (index(lm_head__weight="/tmp/x.safetensors"), "is not the name of a safetensors file in the folder"),
    "a shard that is gone": (index(lm_head__weight="model-00009.safetensors"), "model-00009.safetensors is not there"),
    "a long name": (index(lm_head__weight=f"{'x' * 5000}.safetensors"), "'x+' is not the name of a safetensors file"),
    "a false index": (index(more="first"), "more is listed, and no file holds it"),
    "one name twice": (twice, "can be read: .*offset"),
    "a model within a model": (
        config(model_type="gemma3", text_config=CONFIG), r"no family here reads 'gemma3'; it holds a text model beside"
    ),
    "too many tokens": (tokens(1), "a tokenizer of 258 tokens does not belong to 257 rows"),
    "a tokenizer that explodes": (normalizer("l" * 2000), "its normalizer makes text 2000 times as long"),
    "one in small steps": (normalizer(*["llllllllll"] * 6), "its normalizer makes text 1000000 times as long"),
    "config outside": (linked("config.json"), "config.json is a link that leads out of the folder"),
    "weights outside": (linked(FILE), f"{FILE} is a link that leads out of the folder"),
    "a tokenizer outside": (linked("tokenizer.json"), "tokenizer.json is a link that leads out of the folder"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer.json in it"),
    "tied to another head": (config(tie_word_embeddings=True), "lm_head.weight is not the embedding"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_folder_that_is_not_exactly_a_model_is_refused(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, said = HOSTILE[name]
    change(folder)
    monkeypatch.chdir(tmp_path)
    before = {path.name: path.stat().st_size for path in folder.iterdir()}
    with pytest.raises(UserError, match=said):
        import_folder(folder, tmp_path / "run")
    assert not [
        path for path in tmp_path.iterdir() if not path.name.startswith("theirs")
    ]  # no run, no part of one, nothing executed
    assert before == {path.name: path.stat().st_size for path in folder.iterdir()}


def test_shards_are_read_one_tensor_at_a_time_and_give_the_same_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = import_folder(folder, tmp_path / "whole").run
    index()(folder)
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    read: list[str] = []
    plain = Shards.read
    monkeypatch.setattr(Shards, "read", lambda self, name: read.append(name) or plain(self, name))
    parts = import_folder(folder, tmp_path / "parts").run
    assert sorted(read) == sorted(tensors())
    one, other = Run(whole).weights(), Run(parts).weights()
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_links_of_the_hubs_cache_are_followed(folder: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "c0ffee"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in list(folder.iterdir()):
        file.rename(blobs / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    assert import_folder(snapshot, tmp_path / "run").tensors == len(tensors())


def test_types_are_kept_where_all_agree_and_widened_where_not(folder: Path, tmp_path: Path) -> None:
    save_file({name: tensor.bfloat16() for name, tensor in tensors().items()}, folder / FILE)
    assert {t.dtype for t in Run(import_folder(folder, tmp_path / "a").run).weights().values()} == {torch.bfloat16}
    held = {name: tensor.bfloat16() for name, tensor in tensors().items()}
    save_file(held | {"model.norm.weight": tensors()["model.norm.weight"]}, folder / FILE)
    found = Run(import_folder(folder, tmp_path / "b").run).weights()
    assert torch.equal(found["norm.weight"], tensors()["model.norm.weight"])


@pytest.mark.slow
def test_from_an_import_every_verb_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDKIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("def square(x):\n    return x * x\n" * 40)
    done = verb("import", "theirs", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said == {"run": "runs/theirs", "family": "llama", "pattern": "sa(kv_heads=2)", "notes": []}
    changes = ["data.source=text.txt", "data.sequence=16", "train.batch_tokens=64", "data.validation=.2"]
    small = ["train.steps=2", "train.precision=fp32", "train.device=cpu"]
    for words in (
        ["flops", "runs/theirs/recipe.yaml", "--json"],
        ["generate", "runs/theirs", "def ", "--tokens", "3"],
        ["train", "runs/theirs/recipe.yaml", "train.from=runs/theirs", *changes, *small, "--run", "runs/next"],
        ["eval", "runs/next", "--json"],
        ["export", "runs/theirs", "out"],
    ):  # fmt: skip
        done = verb(*words, cwd=tmp_path)
        assert done.returncode == 0, (words, done.stderr)
    again = verb("import", "theirs", cwd=tmp_path)
    assert again.returncode == 2 and "runs/theirs exists" in again.stderr
    assert torch.equal(hybridkit.load(tmp_path / "runs/theirs").head.weight, load_file(folder / FILE)["lm_head.weight"])


def test_a_repository_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub", reason="needs the hf extra")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    done = verb("import", "nobody/nothing", cwd=tmp_path)
    assert done.returncode == 2
    assert "nobody/nothing: no such folder, and the repository cannot be downloaded" in done.stderr
    assert verb("import", "nothing", cwd=tmp_path).returncode == 2
