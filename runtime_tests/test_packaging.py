"""pyproject.toml: every package and every file that is read at run time is in the wheel."""

from pathlib import Path

import pytest

import edge_hadanorm

tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TABLE = PYPROJECT["tool"]["setuptools"]
EXPORTERS = "edge_hadanorm.exporters"
# Read by those who develop, not by the package.
DEVELOPMENT = {"README.md", "chart.png", "comparison.png", "generate.swift"}


def test_the_package_knows_its_version():
    assert edge_hadanorm.__version__ == PYPROJECT["project"]["version"]


def packages() -> dict[str, Path]:
    """Folders with Python, by the dotted name that they are imported by."""
    found = {}
    for top, name in (("edge_hadanorm", "edge_hadanorm"), ("export", EXPORTERS)):
        for file in (ROOT / top).rglob("__init__.py"):
            inner = file.parent.relative_to(ROOT / top).parts
            found[".".join([name, *inner])] = file.parent
    return found


def test_every_folder_with_python_is_a_package_that_is_listed():
    assert sorted(TABLE["packages"]) == sorted(packages())
    folders = {file.parent for top in ("edge_hadanorm", "export") for file in (ROOT / top).rglob("*.py")}
    assert folders == set(packages().values())


def test_every_file_besides_python_is_package_data_or_for_developers():
    folders = packages()
    data = {
        file
        for name, patterns in TABLE["package-data"].items()
        for pattern in patterns
        for file in folders[name].glob(pattern)
        if file.is_file()
    }
    others = {
        file
        for top in ("edge_hadanorm", "export")
        for file in (ROOT / top).rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc") and file.name not in DEVELOPMENT
    }
    assert others - data == set()
    assert all(list(folders[name].glob(p)) for name, patterns in TABLE["package-data"].items() for p in patterns)
