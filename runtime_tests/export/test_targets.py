"""export/targets.py: every row is a target, and what the rows say is what commands say and do."""

import ast
import inspect
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge_hadanorm import exporters
from edge_hadanorm.cli import cli
from edge_hadanorm.errors import UserError
from edge_hadanorm.exporters import targets
from edge_hadanorm.exporters.targets import TARGETS, Target

CONTRACT = ("check", "notes", "write", "runner")
FOLDER = Path(exporters.__file__).parent


def parameters(function) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def test_the_contract_is_all_of_the_protocol():
    assert {name for name in vars(Target) if not name.startswith("_")} == set(CONTRACT)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CONTRACT)
def test_every_row_is_a_target(target, name):
    assert parameters(getattr(targets.backend(target), name)) == parameters(getattr(Target, name))


def imports(file: Path) -> set[str]:
    """Modules that a file imports from."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


# By the file or folder of an implementation, the files that are its own.
OWN = {
    name: [*FOLDER.glob(f"{name}.py"), *(FOLDER / name).rglob("*.py")]
    for name in {row.module.removeprefix(f"{exporters.__name__}.").partition(".")[0] for row in TARGETS.values()}
}


def of_target(module: str, target: str) -> bool:
    root = f"{exporters.__name__}.{target}"
    return module == root or module.startswith(f"{root}.")


@pytest.mark.parametrize("name", sorted(OWN))
def test_no_target_imports_another(name):
    assert OWN[name]
    for file in OWN[name]:
        found = imports(file)
        assert not [module for module in found for other in OWN if other != name and of_target(module, other)], file


def test_what_targets_share_imports_none_of_them():
    shared = set(FOLDER.glob("*.py")) - {file for files in OWN.values() for file in files}
    assert {file.name for file in shared} >= {"component.py", "targets.py", "writer.py"}
    for file in shared:
        assert not [module for module in imports(file) for name in OWN if of_target(module, name)], file


def test_help_lists_the_table():
    shown = " ".join(CliRunner().invoke(cli, ["export", "--help"]).output.split())
    assert targets.names() == list(TARGETS)
    assert f"{targets.summary()}." in shown
    assert all(f"{name}: {row.summary}" in shown for name, row in TARGETS.items())


def test_an_unknown_target_is_answered_with_the_table():
    with pytest.raises(UserError, match=f"unknown target 'tpu'; targets: {', '.join(TARGETS)}$"):
        targets.backend("tpu")


def test_programs_of_others_may_be_tried_here():
    assert targets.runs_here("xnnpack")
    assert targets.runs_here("tpu")
    assert not targets.runs_here("coreml")
