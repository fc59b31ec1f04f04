"""`doctor` knows every package that the project asks for."""

import re
import tomllib

from project import ROOT

from hybridkit.bench.doctor import CORE, EXTRAS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> tuple[str, ...]:
    """Packages without the versions asked for."""
    return tuple(re.split(r"[<>=]", line)[0] for line in requirements)


def test_doctor_looks_for_what_the_project_needs() -> None:
    extras = {extra: names(lines) for extra, lines in PROJECT["optional-dependencies"].items()}
    assert names(PROJECT["dependencies"]) == CORE
    assert {extra: found for extra, found in extras.items() if extra not in ("all", "dev")} == EXTRAS
