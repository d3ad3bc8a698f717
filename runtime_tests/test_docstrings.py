"""Docstrings say what a thing is or does: their first word is a verb or a noun, not a reference to the neighbour."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Pronouns and prepositions that leave out what is spoken of.
REFERENCES = ("as ", "behind ", "by ", "for ", "from ", "in ", "of ", "that ", "the same", "these ", "those ", "to ")
REFERENCES += ("what ", "where ", "which ", "who ", "whose ", "with ")
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef


def test_no_docstring_begins_with_a_reference():
    found = [
        f"{path.relative_to(ROOT)}: {text.splitlines()[0]}"
        for top in ("edge_hadanorm", "export")
        for path in (ROOT / top).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)) and text.lower().startswith(REFERENCES)
    ]
    assert found == []


def test_every_module_and_public_function_of_the_interface_has_one():
    missing = [
        f"{path.relative_to(ROOT)}"
        for top in ("edge_hadanorm", "export")
        for path in (ROOT / top).rglob("*.py")
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert missing == []
