"""The experts of gpt-oss as they are published, in MXFP4: the same bits as transformers makes of them."""

import json
from pathlib import Path

import pytest
import torch
from checkpoint import LLAMA, instance, save
from safetensors.torch import load_file, save_file

import hybridkit
from hybridkit.hub.importing import import_folder
from hybridkit.hub.mxfp4 import dequantized
from hybridkit.runs.run import Run
from hybridkit.system.errors import UserError

pytest.importorskip("transformers", reason="needs the hf extra")
pytestmark = pytest.mark.slow

EXPERTS = "model.layers.{}.mlp.experts.{}"
SETTINGS = {
    **LLAMA, "num_hidden_layers": 1, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 2,
    "intermediate_size": 64, "layer_types": ["full_attention"],
}  # fmt: skip


def test_every_byte_with_every_scale_is_what_transformers_makes_of_it() -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    blocks = torch.arange(256, dtype=torch.uint8).view(1, 16, 1, 16).repeat(1, 1, 255, 1)
    scales = torch.arange(255, dtype=torch.uint8).view(1, 1, 255).repeat(1, 16, 1)  # 255 is not a number
    found, wanted = dequantized(blocks, scales), convert_moe_packed_tensors(blocks, scales)
    assert found.dtype == wanted.dtype and torch.equal(found.view(torch.int16), wanted.view(torch.int16))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint whose experts are random blocks and scales."""
    place = save(instance("GptOss", **SETTINGS), tmp_path / "theirs")
    held = {name: tensor.bfloat16() for name, tensor in load_file(place / "model.safetensors").items()}
    draw = torch.Generator().manual_seed(0)
    for name, rows, groups in (("gate_up_proj", 128, 1), ("down_proj", 32, 2)):
        del held[EXPERTS.format(0, name)]
        packed = torch.randint(256, (2, rows, groups, 16), generator=draw, dtype=torch.uint8)
        held[EXPERTS.format(0, f"{name}_blocks")] = packed
        scales = torch.randint(118, 124, (2, rows, groups), generator=draw, dtype=torch.uint8)
        held[EXPERTS.format(0, f"{name}_scales")] = scales
    save_file(held, place / "model.safetensors")
    config = json.loads((place / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (place / "config.json").write_text(json.dumps(config))
    return place


def test_a_checkpoint_with_such_experts_is_imported(folder: Path, tmp_path: Path) -> None:
    """transformers dequantizes it by itself on a CPU; both compute in fp32 then."""
    from transformers import AutoModelForCausalLM

    run = import_folder(folder, tmp_path / "run").run
    assert {tensor.dtype for tensor in Run(run).weights().values()} == {torch.bfloat16}
    ids = torch.randint(257, (2, 20), generator=torch.Generator().manual_seed(1))
    theirs = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).float().eval()
    with torch.no_grad():
        found, wanted = hybridkit.load(run).float()(ids)[0], theirs(ids).logits
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_what_is_no_such_checkpoint_is_refused(folder: Path, tmp_path: Path) -> None:
    held = load_file(folder / "model.safetensors")
    name = EXPERTS.format(0, "down_proj_scales")
    for change, said in (
        ({name: held[name][:, :, :1].contiguous()}, r"down_proj_(blocks|scales) has the shape"),
        ({name: held[name].bfloat16()}, "down_proj_scales is of type BF16, not bytes"),
        ({name: held[name].fill_(255)}, "down_proj_scales makes numbers that are not finite"),
    ):
        save_file(held | change, folder / "model.safetensors")
        with pytest.raises(UserError, match=said):
            import_folder(folder, tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["quant_method"] = "fp8"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"quantization_config: .* should be of quant_method mxfp4"):
        import_folder(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()
