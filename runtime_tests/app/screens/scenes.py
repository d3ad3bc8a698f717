"""What the app shows at five moments: the texts that its screens set, from the same strings, of a real run."""

import math
import platform
from dataclasses import dataclass

from edge_hadanorm.bundle import peak_memory
from runtime_tests.app.screens.layout import Scene
from runtime_tests.app.screens.resources import Resources
from runtime_tests.app.screens.run import STRENGTH, Run


@dataclass(frozen=True)
class Shot:
    """A screen to draw: its title, the resources that apply and the views' contents."""

    title: str
    qualifiers: tuple[str, ...]
    scene: Scene


SCREENS = frozenset(("screen_generate", "screen_benchmark", "screen_bundles"))


def shots(resources: Resources, run: Run) -> list[Shot]:
    """In the order of the picture: light and dark in turns."""
    return [
        Shot("On its way", (), generating(resources, run)),
        Shot("Done, dark theme", ("night",), finished(resources, run)),
        Shot("Begun with a picture, under a mask", (), begun(resources, run)),
        Shot("Benchmark", (), benchmark(resources, run)),
        Shot("Bundles, self-check, dark theme", ("night",), bundles(resources, run)),
    ]


def generating(resources: Resources, run: Run) -> Scene:
    step, steps = len(run.steps) - 3, len(run.steps)
    texts = {
        "status": resources.string("phase_denoise"),
        "figures": resources.string("step_figures", step, steps, milliseconds(run.steps[step - 1])),
    }
    return _scene(
        resources,
        run,
        "generate",
        texts | _form(run),
        shown={"progress", "cancel", "original_pick"},
        hidden={"generate", "placeholder"},
        pictures={"picture": run.pictures[step - 1]},
        progress={"progress": step / steps},
    )


def finished(resources: Resources, run: Run) -> Scene:
    texts = {
        "status": resources.string("finished"),
        "figures": resources.string("finished_figures", len(run.steps), milliseconds(sum(run.steps) / len(run.steps))),
    }
    return _scene(
        resources,
        run,
        "generate",
        texts | _form(run),
        shown={"actions", "original_pick"},
        hidden={"placeholder"},
        pictures={"picture": run.pictures[-1]},
    )


def begun(resources: Resources, run: Run) -> Scene:
    """The end of the form: a picture that begins with the one before, of which the right half is drawn anew."""
    plan = run.bundle.plan(run.bundle.sampling["plan"])
    steps = run.begun.steps
    taken = plan.begun(STRENGTH).steps
    texts = {
        "status": resources.string("finished"),
        "figures": resources.string("finished_figures", taken, milliseconds(sum(steps) / len(steps))),
        "strength_label": resources.string("strength_of", STRENGTH, taken, plan.steps),
    }
    return _scene(
        resources,
        run,
        "generate",
        texts | _form(run, run.seed + 1),
        shown={"actions", "original_details", "mask_details"},
        hidden={"placeholder", "mask_pick"},
        pictures={"picture": run.begun.drawn, "original_picture": run.pictures[-1], "mask_picture": run.begun.mask},
        at_end=True,
    )


def benchmark(resources: Resources, run: Run) -> Scene:
    string = resources.string
    after = run.steps[1:]
    rows = [
        (string("measured_range"), string("range", milliseconds(min(after)), milliseconds(max(after)))),
        (string("measured_first"), milliseconds(run.steps[0])),
        *((string("measured_load", role), milliseconds(took)) for role, took in run.load.items()),
        (string("measured_prepare"), milliseconds(run.prepare)),
        (string("measured_total"), milliseconds(run.total)),
        (string("measured_device"), f"{platform.machine()}, {platform.system()}"),
        (string("measured_threads"), string("threads_of_cores", run.threads, run.cores)),
    ]
    texts = {
        "measure_steps": run.bundle.sampling["plan"],
        "measure_threads": str(run.threads),
        "measure_headline": milliseconds(run.median),
    }
    return _scene(resources, run, "benchmark", texts, shown={"measure_results"}, rows={"measure_table": _facts(rows)})


def bundles(resources: Resources, run: Run) -> Scene:
    string, manifest = resources.string, run.bundle.manifest
    mebibytes = sum(entry["bytes"] for entry in manifest["files"].values()) / 2**20
    rows = [
        (string("fact_family"), manifest["family"]),
        (string("fact_recipe"), manifest["recipe"]),
        (string("fact_picture"), string("pixels", manifest["image"]["width"], manifest["image"]["height"])),
        (string("fact_size"), f"{mebibytes:.0f} MiB"),
        (string("fact_memory"), f"{peak_memory(manifest) / 2**20:.0f} MiB"),
        (string("fact_generator"), manifest["generator"]),
        (string("fact_licence"), manifest["licence"]),
    ]
    name = run.bundle.folder.name
    needed = manifest["golden"]["psnr_db"]
    verdict = "check_passed" if run.check.psnr >= needed else "check_failed"
    texts = {"check_result": string(verdict, decibels(run.check.psnr), decibels(needed))}
    return _scene(
        resources,
        run,
        "bundles",
        texts,
        shown={"bundle_details", "check_pictures", "check_result"},
        states={"choice": frozenset(("checked",))},
        pictures={"check_expected": run.check.expected, "check_drawn": run.check.drawn},
        rows={"bundle_table": _facts(rows), "bundle_list": [("row_bundle", {"choice": name})]},
    )


def milliseconds(value: float) -> str:
    """As Format.java has it."""
    if value >= 10_000:
        return f"{value / 1000:.1f} s"
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"


def decibels(value: float) -> str:
    return "∞ dB" if math.isinf(value) else f"{value:.1f} dB"


def _form(run: Run, seed: int | None = None) -> dict[str, str]:
    return {
        "prompt": run.prompt,
        "negative": run.bundle.sampling["negative"],
        "seed": str(run.seed if seed is None else seed),
        "steps": run.bundle.sampling["plan"],
        "guidance": str(run.bundle.sampling["guidance"]),
    }


def _facts(rows: list[tuple[str, str]]) -> list[tuple[str, dict[str, str]]]:
    return [("row_fact", {"name": name, "value": value}) for name, value in rows]


def _scene(resources: Resources, run: Run, tab: str, texts: dict[str, str], **rest) -> Scene:
    line = resources.string("bundle_line", run.bundle.folder.name, run.bundle.recipe)
    rest["hidden"] = frozenset(rest.get("hidden", ())) | SCREENS - {f"screen_{tab}"}
    rest["shown"] = frozenset(rest.get("shown", ())) | {f"screen_{tab}"}
    rest["states"] = rest.get("states", {}) | {f"tab_{tab}": frozenset(("checked",))}
    return Scene({"bundle_line": line} | texts, **rest)
