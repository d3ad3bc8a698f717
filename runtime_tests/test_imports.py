"""Who may import whom, read from the imports themselves, inside functions too; what an import loads, and how long."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The package itself gives its interface by name, each from where it is when it is asked for.
FACADE = {"edge_hadanorm"}
# What general code may read: files, errors, tables, progress.
EDGES = {"errors", "extras", "files", "progress", "tables", "tensor_files", "version"}
METHOD = {"method", *EDGES}
MODELS = {"models", *METHOD}
QUANTIZATION = {"quantization", *MODELS}
PIPELINES = {"pipelines", *MODELS}
BUNDLE = {"bundle", *PIPELINES}
CHECKPOINT = {"checkpoint", *BUNDLE}
MEASURE = {"measure", *CHECKPOINT, *QUANTIZATION}
EXPORTERS = {"exporters", *CHECKPOINT}
WORKFLOW = {"workflow", *MEASURE, *EXPORTERS}
# By room, the rooms that its files may import.
MAY = {
    **dict.fromkeys(EDGES, EDGES),
    "method": {"method", "errors", "files"},
    "models": MODELS,
    "quantization": QUANTIZATION,
    "pipelines": PIPELINES,
    "bundle": BUNDLE,
    "checkpoint": CHECKPOINT,
    "measure": MEASURE,
    "exporters": EXPORTERS,
    "bench": {"bench", "exporters", *QUANTIZATION, *BUNDLE},
    "workflow": {*WORKFLOW, "bench"},
    "demo": {"demo", *WORKFLOW},
    "console": {"errors"},
    "cli": {*FACADE, "cli", "console", "demo", "bench", *WORKFLOW},
    # The example model, its training and the stress test: scripts at the edge, which nothing general imports.
    "reference": {"reference", "console", *QUANTIZATION, *PIPELINES, *MEASURE},
}
# By room, the libraries that its files may import besides Python's own; rooms above use what they need.
LIBRARIES = {
    "errors": set(),
    "files": set(),
    "method": {"numpy", "torch"},
    "models": {"diffusers", "torch", "typing_extensions"},
    "quantization": {"safetensors", "torch"},
}
TARGETS = ("xnnpack", "coreml")
# Light: what they may not load. Seconds are those after torch, many times what it takes on a quiet machine.
HEAVY = ("diffusers", "transformers", "executorch", "torchao", "coremltools", "matplotlib")
SECONDS = 3.0


def sources() -> dict[str, Path]:
    return {module(path): path for top in ("edge_hadanorm", "export") for path in (ROOT / top).rglob("*.py")}


@cache
def imports() -> dict[str, set[str]]:
    """What every module imports of the package, by their dotted names."""
    files = sources()
    found = {}
    for name, path in files.items():
        wanted = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "edge_hadanorm":
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    wanted.add(whole if whole in files else node.module)
            elif isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names if alias.name.split(".")[0] == "edge_hadanorm"}
        found[name] = wanted - {name}
    return found


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = ("edge_hadanorm", "exporters", *parts[1:]) if parts[0] == "export" else parts
    return ".".join(parts).removesuffix(".__init__")


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else name


def test_every_room_imports_what_it_may():
    broken = [
        f"{name} imports {wanted}"
        for name, all_wanted in imports().items()
        if name not in FACADE
        for wanted in all_wanted
        if room(wanted) not in MAY[room(name)]
    ]
    assert broken == []


def test_the_core_imports_few_libraries():
    broken = []
    for name, path in sources().items():
        nodes = list(ast.walk(ast.parse(path.read_text())))
        used = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        used |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
        libraries = {whole.split(".")[0] for whole in used} - {*sys.stdlib_module_names, "edge_hadanorm"}
        broken += [f"{name} imports {library}" for library in libraries - LIBRARIES.get(room(name), libraries)]
    assert broken == []


def test_a_target_imports_no_other():
    broken = [
        f"{name} imports {wanted}"
        for name, all_wanted in imports().items()
        for wanted in all_wanted
        if len({target for target in TARGETS for one in (name, wanted) if f"exporters.{target}" in one}) > 1
    ]
    assert broken == []


def test_no_file_imports_itself_by_way_of_others():
    graph, done = {name: wanted - FACADE for name, wanted in imports().items() if name not in FACADE}, set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for wanted in graph.get(name, ()):
                visit(wanted, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("name", ["edge_hadanorm", "edge_hadanorm.method.recipe", "edge_hadanorm.cli"])
def test_torch_is_imported_when_something_is_done(name):
    assert not {"torch", *HEAVY} & set(loaded(f"import {name}")[1])


@pytest.mark.parametrize(
    "name", ["edge_hadanorm.quantization.quantize", "edge_hadanorm.models", "edge_hadanorm.workflow"]
)
def test_the_core_loads_at_once_and_without_diffusers(name):
    seconds, names = loaded(f"import {name}", before="import torch")
    assert not set(HEAVY) & set(names)
    assert seconds < SECONDS


def loaded(line: str, before: str = "") -> tuple[float, list[str]]:
    """Seconds that a line of Python takes in a process of its own, and the top-level modules that are then loaded."""
    script = (
        f"import sys, time\n{before}\nt = time.perf_counter()\n{line}\nprint(time.perf_counter() - t, *sys.modules)"
    )
    words = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    return float(words[0]), sorted({name.split(".")[0] for name in words[1:]})


def test_the_commands_that_only_tell_answer_without_torch():
    for command in ("--help", "recipes", "quantize --help"):
        arguments = f"sys.argv = ['edge-hadanorm', *'{command}'.split()]"
        script = (
            f"import sys\n{arguments}\nfrom edge_hadanorm.cli import main\ntry:\n main()\nexcept SystemExit: pass\n"
        )
        script += "print('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.endswith("False\n"), command
