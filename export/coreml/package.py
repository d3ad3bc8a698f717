"""A component as Core ML packages, folders X.mlpackage, and the manifest's account of them.

A package of several functions, which share weights, needs iOS 18. For iOS 17 each method has a package of its own, in
a folder; a denoiser's two have next to no weights in common.
"""

import contextlib
import functools
import tempfile
from pathlib import Path

import coremltools as ct
from torch.export import ExportedProgram

from edge_hadanorm.bundle import Bundle
from edge_hadanorm.bundle.runner import BundleRunner
from edge_hadanorm.errors import UserError
from edge_hadanorm.exporters.component import Component, Method
from edge_hadanorm.exporters.coreml.audit import account, audit, functions, requirements
from edge_hadanorm.exporters.coreml.conversion import PRECISIONS, convert, needed_target
from edge_hadanorm.exporters.coreml.graph import eight_bit, export
from edge_hadanorm.exporters.coreml.lowering import emulated
from edge_hadanorm.exporters.coreml.simulation import interpreter
from edge_hadanorm.exporters.coreml.simulation.runner import runner as simulated
from edge_hadanorm.method.linear import DEVICE_BITS
from edge_hadanorm.method.recipe import Recipe

MAIN = "main"
EMULATED = (
    "activations per token are emulated by float operators, as Core ML has no dynamic form: the recipe's numbers, at "
    "the speed of float; recipes with -static run on int8"
)


def check(recipe: Recipe, precision: str | None) -> None:
    """Raises UserError for a recipe or a precision that Core ML has no form for."""
    if recipe.weight_bits > DEVICE_BITS:
        raise UserError(
            f"recipe {recipe.name}: coreml needs weights of at most {DEVICE_BITS} bits; quantize with fewer"
        )
    if precision not in (None, *PRECISIONS):
        raise UserError(f"unknown precision {precision!r}; precisions: {', '.join(PRECISIONS)}")


def notes(recipe: Recipe) -> list[str]:
    """Lines that a user of the programs should read."""
    return [EMULATED] if emulated(recipe) else []


def write(folder: Path, component: Component, precision: str | None) -> dict:
    """Write the packages of a component, audited; returns its entry in the manifest."""
    programs = export_methods(component)
    precision, target = precision_of(component, precision), target_of(programs)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        packages = {}
        for name, method in component.methods.items():
            packages[name] = Path(work) / f"{name}.mlpackage"
            convert(programs[name], *features(method), precision, target).save(str(packages[name]))
        places = place_packages(folder, component.role, packages, target)
    for place, _ in places.values():
        for file in (folder / place).rglob("*.mlmodel"):
            file.chmod(0o644)  # coremltools makes it the user's alone
    methods = {}
    for name, (package, function) in places.items():
        written = functions(folder / package)[function]
        method = component.methods[name]
        audit(written, requirements(method.module, programs[name], precision == "fp16"))
        methods[name] = manifest_signature(method, *features(method)) | {
            "package": package,
            "function": function,
            "delegation": account(written),
        }
    joined = f"{component.role}.mlpackage"
    return {
        "file": joined if (folder / joined).exists() else component.role,
        "methods": methods,
        **program_form(precision, target),
    }


def program_form(precision: str, target: ct.target) -> dict:
    """Entries of the manifest for a program as a whole: the least system, and the precision of floats."""
    return {
        "minimum_deployment_target": target.name,
        "precision": {"tables": "fp32, tables fp16"}.get(precision, precision),
    }


def export_methods(component: Component) -> dict[str, ExportedProgram]:
    """The programs of a component's methods, its own linears lowered and, where it asks for that, others in 8 bits."""
    made = {}
    for name, method in component.methods.items():
        with eight_bit(method.module) if component.eight_bit else contextlib.nullcontext():
            made[name] = export(method.module, method.given)
    return made


def precision_of(component: Component, precision: str | None) -> str:
    """The key of SELECTORS for a component, where this precision is asked for, or None."""
    return "tables" if component.wide and precision != "fp32" else precision or "fp16"


def target_of(programs: dict[str, ExportedProgram]) -> ct.target:
    """The least system for all of them."""
    return max(map(needed_target, programs.values()), key=lambda target: target.value)


def place_packages(folder: Path, role: str, packages: dict[str, Path], target: ct.target) -> dict[str, tuple[str, str]]:
    """Move packages of one function each to where they belong; returns package and function of each method."""
    one = f"{role}.mlpackage"
    if len(packages) == 1:
        ((name, package),) = packages.items()
        package.rename(folder / one)
        return {name: (one, MAIN)}
    if target.value >= ct.target.iOS18.value:
        joined = ct.utils.MultiFunctionDescriptor()
        for name, package in packages.items():
            joined.add_function(str(package), MAIN, name)
        joined.default_function_name = list(packages)[-1]
        ct.utils.save_multifunction(joined, str(folder / one))
        return {name: (one, name) for name in packages}
    (folder / role).mkdir()
    for package in packages.values():
        package.rename(folder / role / package.name)
    return {name: (f"{role}/{package.name}", MAIN) for name, package in packages.items()}


def features(method: Method) -> tuple[list[str], list[str]]:
    """Names of inputs and of outputs in a package: no dots, and each but once."""
    inputs, outputs = ([name.replace(".", "_") for name in names] for names in (method.inputs, method.outputs))
    return inputs, [f"{name}_out" if name in inputs else name for name in outputs]


def manifest_signature(method: Method, *names: list[str]) -> dict:
    """Its signature with the names of its inputs and outputs in the program; integers are int32 there."""
    signature = method.signature()
    return signature | {
        way: [
            tensor | {"feature": name, "dtype": tensor["dtype"].replace("int64", "int32")}
            for tensor, name in zip(signature[way], own, strict=True)
        ]
        for way, own in zip(("inputs", "outputs"), names, strict=True)
    }


def runner(bundle: Bundle) -> BundleRunner:
    """The packages of a bundle, simulated; each is read once."""
    read = functools.cache(interpreter.load)

    def function(role: str, method: str) -> interpreter.Function:
        return read(bundle.package(role, method))[bundle.programs[role]["methods"][method]["function"]]

    return simulated(bundle, function)
