"""What Android's own tools read in an APK and in its bytecode."""

import re
from dataclasses import dataclass
from pathlib import Path

from ci import java, tools

EXECUTORCH = "Lorg/pytorch/executorch/"
OURS = "Lorg/edgehadanorm/"


@dataclass(frozen=True)
class Badging:
    """What an installer would see."""

    package: str
    min_api: int
    target_api: int
    activity: str
    permissions: list[str]
    abis: list[str]


def badging(apk: Path) -> Badging:
    """Raises Failed, Missing."""
    text = java.run([tools.tool("aapt"), "dump", "badging", apk])

    def first(pattern: str) -> str:
        found = re.search(pattern, text, re.MULTILINE)
        if not found:
            raise java.Failed(f"aapt dump badging says nothing of {pattern}:\n{text[:2000]}")
        return found[1]

    abis = re.search(r"^native-code: (.*)$", text, re.MULTILINE)
    return Badging(
        first(r"^package: name='([^']*)'"),
        int(first(r"^sdkVersion:'(\d+)'")),
        int(first(r"^targetSdkVersion:'(\d+)'")),
        first(r"^launchable-activity: name='([^']*)'"),
        re.findall(r"^uses-permission[^:]*: name='([^']*)'", text, re.MULTILINE),
        re.findall(r"'([^']+)'", abis[1]) if abis else [],
    )


def signatures(apk: Path) -> dict[str, bool]:
    """By scheme, v1 to v4, whether the APK is signed so. Raises Failed where a signature is wrong."""
    text = java.run([tools.tool("apksigner"), "verify", "--verbose", "--min-sdk-version", java.MIN_API, apk])
    return {name: value == "true" for name, value in re.findall(r"^Verified using (v[\d.]+) .*: (\w+)$", text, re.M)}


def aligned(apk: Path) -> None:
    """Raises Failed where uncompressed files are not aligned: to 4 bytes, libraries to pages."""
    java.run([tools.tool("zipalign"), "-c", "-p", 4, apk])


def references(dex: Path) -> dict[str, set[str]]:
    """The classes of a classes.dex, each with the classes that its code, fields and signatures name."""
    found: dict[str, set[str]] = {}
    names: set[str] = set()
    for line in java.run([tools.tool("dexdump"), "-d", dex]).splitlines():
        if started := re.match(r"  Class descriptor  : '(.*)'$", line):
            names = found.setdefault(started[1], set())
        names.update(re.findall(r"L[\w$/-]+;", line))
    return found
