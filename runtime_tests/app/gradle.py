"""What the Gradle files of the app say, which are not run here."""

import re
from dataclasses import dataclass
from pathlib import Path

from runtime_tests.app.java import Failed

ROOT = Path(__file__).resolve().parents[2] / "android_demo"
CORE, APP, DESKTOP = (ROOT / name / "src/main" for name in ("core", "app", "desktop"))


@dataclass(frozen=True)
class App:
    """android { } of app/build.gradle, as far as it is checked."""

    namespace: str
    application: str
    min_api: int
    target_api: int
    version_code: int
    version_name: str
    abis: tuple[str, ...]


def app(file: Path = ROOT / "app/build.gradle") -> App:
    """Raises Failed where a value is missing."""
    text = file.read_text()

    def value(name: str) -> str:
        found = re.search(rf"^\s*{name}\s*=?\s*'?([\w.]+)'?\s*$", text, re.MULTILINE)
        if not found:
            raise Failed(f"{file} has no {name}")
        return found[1]

    abis = re.search(r"^\s*abiFilters\.addAll\(\[(.*)\]\)$", text, re.MULTILINE)
    return App(
        value("namespace"),
        value("applicationId"),
        int(value("minSdk")),
        int(value("targetSdk")),
        int(value("versionCode")),
        value("versionName"),
        tuple(re.findall("'([^']+)'", abis[1])) if abis else (),
    )


def executorch(file: Path = ROOT / "gradle/libs.versions.toml") -> str:
    """The release of ExecuTorch that the app is built with. Raises Failed."""
    found = re.search(r'^executorch = "(.*)"$', file.read_text(), re.MULTILINE)
    if not found:
        raise Failed(f"{file} names no executorch")
    return found[1]
