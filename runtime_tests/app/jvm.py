"""The tests of the app on this machine's JVM: of its core, of the app, and of both on ExecuTorch's own Java classes.

There the natives are those of `desktop/`, over the libraries of ExecuTorch's Python wheel.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from runtime_tests.app import gradle, java, tools
from runtime_tests.device.toolchain import compiled, includes, installed, links, require

# Folders of tests by name, in the order in which they need each other.
SUITES = {name: gradle.ROOT / name / "src/test/java" for name in ("core", "app", "desktop")}
NATIVES = gradle.DESKTOP / "cpp/executorch_jni.cpp"


class Tests:
    """The tests as classes, besides the stand-ins for what an Android system or AAR would bring."""

    def __init__(self, folder: Path, app: Sequence[Path], jars: tools.Jars):
        """app: the classes that are tested and ExecuTorch's. Raises Failed, Missing."""
        self._around = [java.compile_jar(folder / "stand-ins.jar", java.sources(gradle.DESKTOP / "java"))]
        self._android = jars.android
        for name, sources in SUITES.items():
            given = [*app, *self._around, *tools.installed(*tools.JUNIT), jars.android]
            self._around.append(java.compile_jar(folder / f"{name}-tests.jar", java.sources(sources), given))
        self._natives = natives()

    def run(self, suite: str, app: Sequence[Path], given: Mapping[str, Path], *options: str) -> int:
        """How many tests of a suite passed, given paths by the names of properties. Raises Failed, Missing.

        options: of the JVM.
        """
        properties = {"natives": self._natives, "java.awt.headless": "true", **given}
        # Android's classes are last: the same jar has an older JUnit.
        classpath = [*tools.installed(*tools.JUNIT), *app, *self._around, self._android]
        return java.junit(classpath, java.tests(SUITES[suite]), properties, *options)


def natives() -> Path:
    """The library of NATIVES, which is kept. Raises Missing."""
    executorch, headers = installed(), tools.java_home() / "include"
    command = [require("g++", "g++"), "-O2", "-Wall", "-Wno-deprecated-declarations", "-shared", "-fPIC"]
    command += [*includes(executorch), "-DET_EVENT_TRACER_ENABLED", f"-I{headers}", f"-I{headers / 'linux'}"]
    command += [str(NATIVES), *links(executorch)]
    return compiled(command, "libexecutorch_jni.so", [NATIVES, executorch / "lib/libexecutorch.so"])
