"""The tables of a conversion: each mixer named once, every weight told, and nothing lost on a narrow terminal."""

import os
import re

import pytest

import hybridkit as hk
from hybridkit.convert.keep import Choice, KeepCandidate, RecallAndLoss
from hybridkit.convert.mapping import map_weights
from hybridkit.report.mapping import print_choice, print_mapping, ranges

PATTERN = "[[swa(bias=qkv):64 | mlstm], mamba2(head=4,state=4,groups=4), sa(kv_heads=2,bias=qkv)]*2"


def words(text: str) -> list[str]:
    return text.split()


@pytest.mark.parametrize("columns", [200, 60])
def test_mixers_that_began_alike_share_a_paragraph(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, student = hk.build("sa(kv_heads=2,bias=qkv)*6", width=16), hk.build(PATTERN, width=16)
    layers = map_weights(teacher, student)
    monkeypatch.setattr("hybridkit.report.console.is_terminal", lambda stream: True)
    monkeypatch.setitem(os.environ, "COLUMNS", str(columns))
    print_mapping(layers, student.plan)
    lines = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= columns
    said = " ".join(words("\n".join(lines)))
    assert "mixers 0, 3 (entries 0.1, 6.1): mlstm in place of sa" in said
    assert "mixers 2, 5" in said and "sa(kv_heads=2,bias=qkv), kept" in said
    assert "k.bias, q.bias, v.bias (of the teacher, without a place)" in said
    assert "the entry's norm.weight" in said and "in_proj.weight[48:64]" in said
    assert "copied as they are: embedding, norms, head, 6 FFNs" in said


def test_the_choice_says_what_each_mixer_is_worth(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        KeepCandidate(0, 0, RecallAndLoss(0.5, 2.1), 0.0, False),
        KeepCandidate(3, 6, RecallAndLoss(0.25, 2.0), 25.0, True),
    ]
    print_choice(Choice(RecallAndLoss(0.5, 2.0), rows))
    out = capsys.readouterr().out
    assert [words(line) for line in out.splitlines()[1:]] == [
        ["none", "0.500", "2.0000"],
        ["0", "0", "0.500", "2.1000", "0"],
        ["3", "6", "0.250", "2.0000", "25", "yes"],
    ]


def test_ranges_write_stretches_short() -> None:
    assert ranges([0, 1, 2, 5, 6, 9]) == "0-2, 5, 6, 9" and ranges([4]) == "4"
