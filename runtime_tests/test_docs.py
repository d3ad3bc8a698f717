"""What the pages in Markdown name exists: files, headings, modules, commands, tests, extras."""

import re
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from edge_hadanorm.cli import cli
from edge_hadanorm.method.recipe import METHODS, named

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    tomllib = None

ROOT = Path(__file__).parents[1]
README_LINES = 140
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
MODULE = re.compile(r"python -m (runtime_tests(?:\.\w+)+)")
COMMAND = re.compile(r"edge-hadanorm ([a-z][a-z-]*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
TEST = re.compile(r"`(?:runtime_tests/)?((?:\w+/)*test_\w+\.py)(?:::(test_\w+))?`")
RECIPE = re.compile(rf"\b(?:{'|'.join(METHODS)})-w\d+a\d+(?:-g\d+)?(?:-static)?\b")
EXTRAS = re.compile(r"'\.\[([a-z,]+)\]'")


@cache
def pages() -> dict[str, str]:
    """Text of every tracked page, by its path."""
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name: (ROOT / name).read_text() for name in listed.split()}


def anchors(text: str) -> set[str]:
    """What GitHub makes of a page's headings: lower-case words with dashes."""
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(FENCE.sub("", text)))
    return {word.strip().replace(" ", "-") for word in words}


def commands(text: str) -> list[str]:
    """Calls of the command in blocks and spans of code, each from its name on, without what a comment says."""
    code = [*FENCE.findall(text), *SPAN.findall(FENCE.sub("", text))]
    calls = re.findall(r"(?<![\w/-])edge-hadanorm [a-z][^\n]*", "\n".join(code))
    return [call.split("#")[0] for call in calls]


def test_pages_are_found():
    assert {"README.md", ".github/CONTRIBUTING.md", "edge_hadanorm/README.md"} <= set(pages())


def test_every_relative_link_leads_somewhere():
    broken = []
    for name, text in pages().items():
        for link in LINK.findall(FENCE.sub("", text)):
            path, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", link):
                continue
            target = (ROOT / name).parent / path if path else ROOT / name
            if not target.exists():
                broken.append(f"{name}: {link}")
            elif anchor and anchor not in anchors(target.read_text()):
                broken.append(f"{name}: {link}, no such heading")
    assert broken == []


def test_every_module_that_is_run_exists():
    named_modules = {module for text in pages().values() for module in MODULE.findall(text)}
    named_modules -= {"runtime_tests.benchmarks.NAME"}
    assert named_modules
    assert [module for module in sorted(named_modules) if not find_spec(module)] == []


def test_every_command_and_option_exists():
    wrong = []
    for name, text in pages().items():
        for call in commands(text):
            command = cli.commands.get(COMMAND.match(call)[1])
            if command is None:
                wrong.append(f"{name}: {call}")
                continue
            known = {option for parameter in command.params for option in parameter.opts}
            wrong += [f"{name}: {option} of {call}" for option in OPTION.findall(call) if option not in known]
    assert wrong == []
    assert {COMMAND.match(call)[1] for call in commands(pages()["edge_hadanorm/README.md"])} == set(cli.commands)


def test_every_recipe_that_is_named_is_one():
    recipes = {recipe for text in pages().values() for recipe in RECIPE.findall(text)}
    assert "hadanorm-auto-w4a8" in recipes
    assert all(named(recipe).name == recipe for recipe in recipes)


def test_every_test_that_is_named_exists():
    wrong = []
    for name, text in pages().items():
        for path, function in TEST.findall(text):
            places = [ROOT / "runtime_tests" / path, (ROOT / name).parent / path]
            file = next((place for place in places if place.exists()), None)
            if not file or (function and f"def {function}(" not in file.read_text()):
                wrong.append(f"{name}: {path} {function}")
    assert wrong == []


@pytest.mark.skipif(tomllib is None, reason="tomllib comes with Python 3.11")
def test_every_extra_that_is_named_exists():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {extra for text in pages().values() for found in EXTRAS.findall(text) for extra in found.split(",")}
    assert {"dev", "export"} <= asked <= set(project["optional-dependencies"])


def test_the_front_page_is_short():
    assert len(pages()["README.md"].splitlines()) <= README_LINES


def test_the_top_level_holds_what_it_may():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tops = {name.split("/")[0] for name in listed.split("\n") if name and not name.startswith(".")}
    folders = {"edge_hadanorm", "export", "runtime_tests", "android_demo"}
    assert tops == folders | {"pyproject.toml", "README.md", "Makefile", "LICENSE", "NOTICE"}
