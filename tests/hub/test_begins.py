"""The tokens that transformers puts before every text: an import says them, and an export has the ids of the run."""

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoint import LLAMA, instance, save
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

import hybridkit
from hybridkit.hub.export import export_run
from hybridkit.hub.importing import import_folder

pytest.importorskip("transformers", reason="needs the hf extra")
pytestmark = pytest.mark.slow
NAMES = ["<|begin|>", "<|endoftext|>"]
BYTE_LEVEL = processors.ByteLevel(trim_offsets=False)
TEMPLATE = processors.TemplateProcessing(
    single=f"{NAMES[0]} $A", pair=f"{NAMES[0]} $A $B", special_tokens=[(NAMES[0], 0)]
)
CASES: dict[str, tuple[Any, dict[str, Any], list[int]]] = {  # what tokenizer.json has, its config, the first tokens
    "none": (None, {}, []),
    "no template": (BYTE_LEVEL, {"bos_token": NAMES[0]}, []),
    "template": (TEMPLATE, {"bos_token": NAMES[0]}, [0]),
    "within a sequence": (processors.Sequence([BYTE_LEVEL, TEMPLATE]), {}, [0]),
    "RoBERTa's": (processors.RobertaProcessing((NAMES[1], 1), (NAMES[0], 0)), {}, [0]),
    "a switch that nothing reads": (None, {"bos_token": NAMES[0], "add_bos_token": True}, []),
    "a template that is not switched off": (TEMPLATE, {"bos_token": NAMES[0], "add_bos_token": False}, [0]),
}


def library(template: Any) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({name: place for place, name in enumerate([*NAMES, *alphabet])}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens(NAMES)
    if template is not None:
        made.post_processor = template
    return made


@pytest.mark.parametrize("name", CASES)
def test_first_tokens(name: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    template, config, first = CASES[name]
    settings = {**LLAMA, "vocab_size": 258, "num_hidden_layers": 1, "bos_token_id": 0, "eos_token_id": 1}
    folder = save(instance("Llama", **settings), tmp_path / "theirs")
    library(template).save(str(folder / "tokenizer.json"))
    said = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    theirs = AutoTokenizer.from_pretrained(folder)
    made = import_folder(folder, tmp_path / "run")
    run = hybridkit.load(made.run)
    assert run.tokenizer
    own = run.tokenizer.encode(b"def main(").tolist()
    ids = theirs("def main(")["input_ids"]
    assert ids[: len(first) + len(own)] == [*first, *own]
    assert any("puts token 0 (<|begin|>) before every text" in note for note in made.notes) == bool(first)
    given = run.prefill([*first, *run.tokenizer.encode(b"def main(")])
    assert given.tokens == len(first) + len(own)
    export_run(made.run, tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("def main(")["input_ids"] == own
