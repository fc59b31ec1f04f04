"""`show` of runs, and what it says of folders that hold none."""

import json
from pathlib import Path

import pytest

from hybridkit.report.console import apart
from hybridkit.report.curves import RunCurve, curves_of, draw_curves, print_curves
from hybridkit.report.figure import label, labels, save_figure
from hybridkit.system.errors import UserError


def test_a_folder_without_a_run_has_no_curves(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="quickstart is no run folder"):
        curves_of([tmp_path / "quickstart"])


def test_a_run_that_has_not_stepped_yet_has_an_empty_curve(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("pattern: sa\n")
    (curve,) = curves_of([tmp_path])
    assert json.loads(json.dumps(curve.summary())) == {
        "run": str(tmp_path),
        "step": 0,
        "tokens": 0,
        **dict.fromkeys(("loss", "val_loss", "val_bits_per_byte", "tokens_per_second")),
    }


def test_common_beginnings_end_with_a_word() -> None:
    assert apart(["runs/swax-seed-10", "runs/swax-seed-11"]) == ("runs/swax-seed-", ["10", "11"])
    assert apart(["runs/a", "other/b"]) == ("", ["runs/a", "other/b"])
    assert apart(["a", "a/b"]) == ("", ["a", "a/b"]) and apart(["x/a"]) == ("", ["x/a"]) and apart([]) == ("", [])


def test_labels_of_runs_differ_whatever_they_share() -> None:
    names = [f"runs/{'long/' * 40}seed-{n}" for n in range(3)] + ["x" * 300 + "1", "x" * 300 + "2", "y" + "x" * 299]
    shown = labels(names)
    assert list(shown) == names and len(set(shown.values())) == len(names)
    trials = [f"studies/a/trials/{n}/seed-0" for n in range(2)]
    assert list(labels(trials).values()) == ["0", "1"] and list(labels(["a/x", "b/x/x"]).values()) == ["a", "b/x"]
    assert max(map(len, shown.values())) < 60 and label("_x").strip() == "_x" and label("_x")[0] != "_"


def test_rows_of_long_names_differ_in_a_pipe_and_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"runs/{'long-' * 30}seed-{seed}" for seed in range(2)]
    curves = [RunCurve(name, [], []) for name in names]
    monkeypatch.setenv("COLUMNS", "60")
    print_curves(curves)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == names
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    print_curves(curves)
    first, _, *rows = capsys.readouterr().out.splitlines()
    assert first.replace("...", "0") == names[0] and {row.split()[0] for row in rows} >= {"0", "1"}


@pytest.mark.slow
def test_a_curve_shows_its_losses_and_every_name(tmp_path: Path) -> None:
    step = {"tokens_per_second": 1.0, "seconds": 2.0}
    steps = [{"step": n, "tokens": 8 * n, "loss": None if n == 3 else 3.0 - n / 9, **step} for n in range(1, 9)]
    curves = [RunCurve(name, steps, [{"step": 8, "val_loss": 2.0}]) for name in ("_x", "a$b^{$", "a$b^{$")]
    save_figure(draw_curves(curves), tmp_path / "c.svg")
    text = (tmp_path / "c.svg").read_text("utf-8")
    assert "<!--  _x -->" in text and "<!-- a$b^{$ -->" in text
    assert curves[0].summary()["loss"] == pytest.approx(3 - 8 / 9), "the last tenth of the steps: one"
    (line,) = (line for line in draw_curves(curves[:1], "seconds").axes[0].get_lines() if line.get_label() == " _x")
    assert line.get_xdata()[-1] == pytest.approx(16), "seconds add up"
    with pytest.raises(UserError, match="--plot"):
        save_figure(draw_curves(curves), tmp_path / "no" / "c.png")
