"""What an installed package holds is what lies here."""

from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="tomllib comes with Python 3.11")
ROOT = Path(__file__).parents[1]


def test_every_package_is_in_the_wheel():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = set()
    for name, top in (("edge_hadanorm", "edge_hadanorm"), ("edge_hadanorm.exporters", "export")):
        for file in (ROOT / top).rglob("__init__.py"):
            found.add(".".join([name, *file.parent.relative_to(ROOT / top).parts]))
    assert found == set(settings["packages"])
