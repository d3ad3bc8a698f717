"""The Android release that each class, method and field came with, which D8 carries: what Android's lint would say."""

import struct
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from runtime_tests.app.verify import Class

# In D8: big-endian; the number of strings, their places, two hash tables that are not needed to read all, a payload.
DATABASE = "resources/new_api_database.ser"
PLACE = struct.Struct(">IH")
STRINGS_HASH, ENTRIES_HASH = 1 << 17, 1 << 18
TYPE, FIELD, METHOD = range(3)
# What every class has of java.lang.Object, which has no entries.
EVERYWHERE = (
    "<init>",
    "clone",
    "equals",
    "finalize",
    "getClass",
    "hashCode",
    "notify",
    "notifyAll",
    "toString",
    "wait",
)


@cache
def levels(d8: Path) -> dict[str, int]:
    """API levels by descriptor: "Lholder;", "Lholder;.field:type", "Lholder;.method:(types)type", inherited or not."""
    with zipfile.ZipFile(d8) as archive:
        content = archive.read(DATABASE)
    (count,) = struct.unpack_from(">I", content)
    table = 4 + PLACE.size * (count + STRINGS_HASH)
    payload = table + PLACE.size * ENTRIES_HASH

    def places(start: int, number: int) -> Iterator[tuple[int, int]]:
        for at, length in PLACE.iter_unpack(content[start : start + number * PLACE.size]):
            if length:
                yield payload + at, payload + at + length

    strings = [content[start:end].rstrip(b"\0").decode() for start, end in places(4, count)]
    found = {}
    for start, end in places(table, ENTRIES_HASH):
        while start < end:
            (length,) = struct.unpack_from(">H", content, start)
            entry, start = content[start + 2 : start + 2 + length], start + 3 + length
            found[_descriptor(entry, strings)] = content[start - 1]
    return found


def _descriptor(entry: bytes, strings: list[str]) -> str:
    kind, names = entry[0], [strings[index] for (index,) in struct.iter_unpack(">H", entry[1:])]
    if kind == TYPE:
        return names[0]
    holder, name, *types, last = names
    return f"{holder}.{name}:{last}" if kind == FIELD else f"{holder}.{name}:({''.join(types)}){last}"


def newer(classes: dict[str, Class], known: dict[str, int], min_api: int) -> dict[str, int]:
    """What bytecode names of Android that came after an API level, with the level; 0 for what no level has."""
    found = {}
    for used in classes.values():
        for name in used.names - classes.keys():
            if known.get(name, 0) > min_api:
                found[name] = known[name]
        for holder, member in used.members:
            while holder in classes and member not in classes[holder].declared:
                holder = classes[holder].parent
            if holder not in classes and holder in known and member.partition(":")[0] not in EVERYWHERE:
                level = known.get(f"{holder}.{member}", 0)
                if not level or level > min_api:
                    found[f"{holder}.{member}"] = level
    return found
