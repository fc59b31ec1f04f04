"""The model card, README.md: what the model is, how it was trained, what was measured, and how it is opened."""

from __future__ import annotations

import re
from pathlib import PurePath

from hybridkit.block import said_window
from hybridkit.hub.family import Family
from hybridkit.model.model import Model
from hybridkit.recipe.record import in_words
from hybridkit.runs.run import Run
from hybridkit.runs.weights import weights_of
from hybridkit.system.terminal import one_line

_MARKS = re.compile(r"([\\`*_{}\[\]<>#|$])")  # that Markdown would read in a title


def card(run: Run, model: Model, family: Family, folder: str, average: bool = False) -> str:
    """The text of README.md for an export to a folder of this name; `average`: of the running mean of the weights."""
    head = "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [hybridkit]\n---\n"
    title = _MARKS.sub(r"\\\1", one_line(run.path.name))
    parts = [f"{head}# {title}", *_model(model, family), *_training(run, average), _use(family, folder)]
    return "\n\n".join(parts) + "\n"


def _model(model: Model, family: Family) -> list[str]:
    plan, count = model.plan, sum(tensor.numel() for tensor in weights_of(model).values())
    policies = {str(policy): said_window(policy.largest) for policy in plan.policies if policy}
    rows = [
        ("pattern", f"`{plan.pattern}`"),
        ("parameters", f"{count:,}"),
        ("width, heads, vocabulary", f"{plan.dims.width}, {plan.dims.heads}, {plan.dims.vocab}"),
        ("format", family.name()),
        *((f"window in training `{said}`", f"here always {largest}") for said, largest in policies.items()),
    ]
    return [
        "A language model made with hybridkit: one pattern says its stack of layers.",
        _table("model", rows),
    ]


def _training(run: Run, average: bool) -> list[str]:
    """Training and figures up to the checkpoint, as far as the run says them."""
    recipe, lines, record = run.recipe.recipe, run.metrics().lines, run.record()
    lines = [line for line in lines if record is None or line["step"] <= record.step]
    if not lines:
        return ["The weights come from another checkpoint; this run holds no record of their training."]
    train, data, last = recipe.train, recipe.data, lines[-1]
    rows = [
        ("steps", f"{last['step']:,} of {train.steps:,}, {train.batch_tokens:,} tokens each"),
        ("text", f"{_code(_source(data.source))}, sequences of {data.sequence:,}"),
        ("tokenizer", _code(_source(data.tokenizer))),
        ("learning rate", f"{train.lr:g} to {train.last_lr:.3g}, {in_words(train.schedule)}"),
    ]
    if average:
        rows.append(("weights", f"their running mean of decay {train.ema:g}"))
    names = ("val_loss_ema", "val_bits_per_byte_ema") if average else ("loss", "val_loss", "val_bits_per_byte")
    found = {name: line[name] for line in lines for name in names if line.get(name) is not None}
    figures = [(name, f"{found[name]:.4f}") for name in names if name in found]
    return [_table("training", rows), *([_table("last figures", figures)] if figures else [])]


def _source(said: object) -> str:
    """A source or tokenizer by the last part of its path, which says nothing of the machine."""
    return PurePath(said).name if isinstance(said, str) else ", ".join(_source(one.source) for one in said)  # type: ignore


def _use(family: Family, folder: str) -> str:
    place = one_line(folder).replace("\\", "\\\\").replace('"', '\\"').replace("`", "'")  # within quotes of Python
    warned = f"{note}\n\n" if (note := padding_note(family)) else ""
    return f"{warned}```python\n{family.opened_by.format(folder=place)}\n```"


def padding_note(family: Family) -> str | None:
    """What to know of batches where the class reads padding, for the card and for who exports."""
    if not family.reads_padding:
        return None
    return (
        f"Do not pad: {family.reads_padding} reads padding as text, whatever the attention_mask says; generate texts of"
        " other lengths one by one, or export with --format remote."
    )


def _code(text: str) -> str:
    return "`" + one_line(text).replace("`", "'") + "`"


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    safe = ((name, value.replace("|", "\\|")) for name, value in rows)  # `[swa | mlstm]` is one cell
    return "\n".join([f"| {title} | |", "|---|---|", *(f"| {name} | {value} |" for name, value in safe)])
