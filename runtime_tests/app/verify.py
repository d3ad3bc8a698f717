"""What Android's own tools read in an APK and in its bytecode."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from runtime_tests.app import java, tools

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


@dataclass
class Class:
    """A class of the bytecode: all classes that it names, members that it names by holder, and those that it has.

    A member is "field:type" or "method:(types)type".
    """

    parent: str = ""
    names: set[str] = field(default_factory=set)
    members: set[tuple[str, str]] = field(default_factory=set)
    declared: set[str] = field(default_factory=set)


def classes(dex: Path) -> dict[str, Class]:
    """The classes of a classes.dex by descriptor. Raises Failed, Missing."""
    found: dict[str, Class] = {}
    current, member = Class(), ""
    for line in java.run([tools.tool("dexdump"), "-d", dex]).splitlines():
        if started := re.match(r"  Class descriptor  : '(.*)'$", line):
            current = found.setdefault(started[1], Class())
        elif parent := re.match(r"  Superclass        : '(.*)'$", line):
            current.parent = parent[1]
        elif name := re.match(r"      name          : '(.*)'$", line):
            member = name[1]
        elif of := re.match(r"      type          : '(.*)'$", line):
            current.declared.add(f"{member}:{of[1]}")
        elif named := re.search(r" (L[^; ]+;)\.(\S+:\S+) // (?:method|field)@", line):
            current.members.add((named[1], named[2]))
        current.names.update(re.findall(r"L[\w$/-]+;", line))
    return found
