"""Cuts: layers of one kind forget what lies further back, and no other layer does."""

import pytest
import torch
from tiny import some_ids, tiny

import hybridkit as hk
from hybridkit.data.feed import IGNORED, Batch
from hybridkit.evaluation.cut import Cut, Held, before_answers, check_cut, cut_layers, every
from hybridkit.evaluation.scoring import ReadOptions, score_tokens
from hybridkit.inference.decode import prefill
from hybridkit.model.model import Model
from hybridkit.system.errors import UserError

MIXERS = ["sa", "swa:8", "mla", "mlstm", "gdn(heads=2)", "kda(heads=2)", "mamba2(head=4,state=4)", "rglru", "conv"]


def asked(lengths: tuple[int, ...], answers: int = 2) -> Batch:
    """Rows of random ids, each with its last targets alone counted; shorter rows are filled up behind."""
    ids = some_ids(max(lengths) + 1, len(lengths))
    targets = torch.full((len(lengths), max(lengths)), IGNORED)
    for row, length in enumerate(lengths):
        targets[row, length - answers : length] = ids[row, length - answers + 1 : length + 1]
    return Batch(ids[:, :-1], targets, None, 0)


def nats(model: Model, batch: Batch, cut: Cut | None = None, chunk: int = 64) -> torch.Tensor:
    return score_tokens(model, batch, ReadOptions(chunk=chunk, cut=cut), before_answers).nats


@pytest.mark.parametrize(
    ("pattern", "held"), [("[mlstm, gdn(heads=2)]", "state"), ("[mamba2(head=4,state=4), conv]", "state"),
                          ("[sa, swa:8]", "cache"), ("mla*2", "cache")],
)  # fmt: skip
@pytest.mark.parametrize("chunk", [64, 5])
def test_where_all_layers_are_cut_the_answer_is_that_of_the_last_tokens(pattern: str, held: Held, chunk: int) -> None:
    model, batch = tiny(pattern, width=16, heads=2), asked((23, 17))
    found = nats(model, batch, Cut(held, 9), chunk)
    for row, length in enumerate((23, 17)):
        last = slice(length - 2 + 1 - 9, length)  # nine tokens before the first answer, and that
        alone = Batch(batch.tokens[row : row + 1, last], batch.targets[row : row + 1, last], None, 0)
        torch.testing.assert_close(found[row, length - 2 : length], nats(model, alone)[0, -2:])


def test_the_other_layers_remember_and_the_model_is_as_it_was() -> None:
    model, batch = tiny("[sa, mlstm]", width=16, heads=2), asked((20,))
    whole = nats(model, batch)
    state, cache = (nats(model, batch, Cut(held, 6)) for held in ("state", "cache"))
    assert len({round(found.sum().item(), 9) for found in (whole, state, cache)}) == 3
    assert torch.equal(nats(model, batch, Cut("state", 19)), whole), "a cut at the row's first token changes nothing"
    assert torch.equal(nats(model, batch), whole)


def test_prompts_of_several_lengths_are_cut_at_the_same_distance_from_their_ends() -> None:
    model, rows = tiny("[mlstm, conv]", width=16, heads=2), [row.tolist() for row in some_ids(30, 2)]
    rows[1] = rows[1][:21]
    with cut_layers(model, Cut("state", 7), lambda distance: torch.arange(30)[None] == 30 - distance):
        found = prefill(model, rows, chunk=8).logits
    torch.testing.assert_close(found, prefill(model, [row[-7:] for row in rows]).logits)


def test_text_is_cut_at_every_multiple() -> None:
    model, ids = tiny("[mlstm, rglru]", width=16, heads=2), some_ids(33)
    batch = Batch(ids[:, :-1], ids[:, 1:], None, 0)
    found = score_tokens(model, batch, ReadOptions(chunk=7, cut=Cut("state", 8))).nats
    parts = [Batch(batch.tokens[:, at : at + 8], batch.targets[:, at : at + 8], None, 0) for at in range(0, 32, 8)]
    torch.testing.assert_close(found, torch.cat([nats(model, part) for part in parts], dim=1))
    assert every(batch, 8).sum() == 4


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_mixer_says_whether_its_state_has_rows_for_tokens(mixer: str) -> None:
    plan = hk.build(mixer, width=16, heads=2).plan
    held, other = ("cache", "state") if plan.branches[0].block.keeps_tokens else ("state", "cache")
    check_cut(plan, Cut(held, 3))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"--(evict|reset-state): no block of .* leave it out"):
        check_cut(plan, Cut(other, 3))  # type: ignore[arg-type]
    sizes = [sum(t.numel() for t in plan.branches[0].block.init_state(plan.dims, 1, n)) for n in (4, 8)]
    assert (sizes[1] > 1.5 * sizes[0]) == (held == "cache"), "rows for tokens grow with them, up to the window"
