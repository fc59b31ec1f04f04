"""Reports without their pictures, which take most of the time here. tests/cli/test_eval.py looks at pictures."""

import pytest


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridkit.report.eval_page.eval_pictures", lambda found: iter(()))
