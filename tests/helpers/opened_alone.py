"""A program of its own, run by `python -I`: opens exported folders with their remote code, where hybridkit is absent.

Arguments: a file for the answers, and folders. Each folder is also saved again by transformers and opened from there.
"""

import sys
import warnings
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any


class Absent(MetaPathFinder):
    """As if these packages were not installed."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        if name.partition(".")[0] in ("hybridkit", "hybridkit_blocks"):
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Absent())
warnings.simplefilter("ignore")
import torch  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

LONG = 2_000


def opened(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, local_files_only=True).eval()


def written(model: Any, ids: torch.Tensor, mask: torch.Tensor, tokens: int) -> torch.Tensor:
    made = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=tokens, eos_token_id=None)
    return made[:, ids.shape[1] :]


def answers(folder: Path) -> dict[str, torch.Tensor]:
    model, draw = opened(folder), torch.Generator().manual_seed(1)
    ids = torch.randint(257, (3, 70), generator=draw)
    found = {"ids": ids, "logits": model(ids).logits, "greedy": written(model, ids[:1], torch.ones_like(ids[:1]), 24)}
    found["stepped"] = stepped(model, ids)
    lengths = (70, 3, 41)
    mask = torch.stack([(torch.arange(70) >= 70 - length).long() for length in lengths])
    padded = ids.clone().masked_fill(mask == 0, 7)
    found["batch"] = written(model, padded, mask, 6)
    rows = [written(model, row[None, -n:], torch.ones(1, n).long(), 6) for row, n in zip(ids, lengths, strict=True)]
    found["alone"] = torch.cat(rows)
    mask[0, :3] = 0  # the last 67 tokens of a row are the first 67 of the other
    moved = torch.cat([padded[:1, :3], ids[:1, :67]], 1)
    found["padded"] = model(moved, attention_mask=mask[:1]).logits[:, 3:]
    found["beams"] = model.generate(ids, attention_mask=torch.ones_like(ids), num_beams=2, max_new_tokens=4)
    model.save_pretrained(folder / "again")
    found["again"] = opened(folder / "again")(ids).logits
    found["loss"] = model(ids, labels=ids).loss
    text = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)("ab\x00é<|endoftext|>")["input_ids"]
    found["text"] = torch.tensor(text)
    return found


def stepped(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Logits by a prefill, single tokens and a further stretch."""
    made, parts = None, []
    for cut in (ids[:, :40], *ids[:, 40:50].split(1, 1), ids[:, 50:]):
        made = model(cut, past_key_values=made and made.past_key_values, use_cache=True)
        parts.append(made.logits)
    return torch.cat(parts, 1)


def states(folder: Path) -> dict[str, torch.Tensor]:
    """Bytes of the cache after some tokens, and after a long text and 20 more tokens that were generated."""
    model, ids = opened(folder), torch.randint(257, (1, LONG))
    few = model(ids[:, :500], use_cache=True, logits_to_keep=1).past_key_values.nbytes()
    made = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, eos_token_id=None, return_dict_in_generate=True
    )
    return {"bytes": torch.tensor([few, made.past_key_values.nbytes()])}


if __name__ == "__main__":
    out, *folders = map(Path, sys.argv[1:])
    with torch.no_grad():
        torch.save({folder.name: answers(folder) for folder in folders} | {"states": states(folders[0])}, out)
