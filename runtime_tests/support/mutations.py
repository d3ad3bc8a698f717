"""Hypothesis strategies of files that are nearly right: JSON documents and safetensors files with a few mistakes."""

import copy
import json
import struct

import hypothesis.strategies as st

NUMBERS = [0, 1, -1, 0.5, 2**31, 2**63, 2**64, 10**400, -(10**400), 1e308, float("inf"), float("-inf"), float("nan")]
TEXTS = ["", "x", "..", "/", "\ud800", "x\0", "\n", "float32", "F32", "F4", "U16", "C64", "9" * 5000]
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from([*NUMBERS, *TEXTS])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
MUTATIONS = ("replace", "replace", "delete", "rename", "insert")
# Text that is put somewhere in a document.
SPLICES = [
    b"",
    b"\xff",
    b"\xed\xa0\x80",
    b"\0",
    b",",
    b"}",
    b'"x": 1,',
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"9" * 5000,
]


def places(value: object) -> list[tuple]:
    """(container, key) of everything in a JSON value."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return [(value, key) for key, _ in items] + [place for _, item in items for place in places(item)]


@st.composite
def changed(draw, whole: object) -> object:
    """A JSON value with one to three values in it changed."""
    value = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        if options := places(value):
            parent, key = draw(st.sampled_from(options))
            _change(draw, parent, key)
    return value


@st.composite
def document(draw, whole: object) -> bytes:
    """The text of a JSON document that is changed, and perhaps has a key twice or bytes out of place."""
    text = json.dumps(draw(changed(whole))).encode()
    if draw(st.integers(0, 3)):
        return text
    if isinstance(whole, dict) and draw(st.booleans()):
        twice = json.dumps({draw(st.sampled_from(list(whole))): draw(VALUES)}).encode()
        return b"{" + twice[1:-1] + b"," + text[1:]
    start, length = draw(st.integers(0, len(text))), draw(st.sampled_from([0, 1, 5, len(text)]))
    return text[:start] + draw(st.sampled_from(SPLICES)) + text[start + length :]


def _change(draw, parent: dict | list, key: str | int) -> None:
    mutation = draw(st.sampled_from(MUTATIONS))
    if mutation == "delete":
        del parent[key]
    elif mutation == "replace":
        parent[key] = draw(VALUES)
    elif isinstance(parent, list):
        parent.insert(key, draw(VALUES))
    else:
        parent[draw(st.text(max_size=4))] = parent.pop(key) if mutation == "rename" else draw(VALUES)


@st.composite
def safetensors(draw, content: bytes) -> bytes:
    """A safetensors file with a mistake in its header, its length or its data."""
    (size,) = struct.unpack("<Q", content[:8])
    header, data = content[8 : 8 + size], content[8 + size :]
    where = draw(st.sampled_from(["header", "header", "header", "offsets", "length", "data", "cut"]))
    if where == "header":
        header = draw(document(json.loads(header)))
    elif where == "offsets":  # two tensors on the same bytes
        entries = json.loads(header)
        names = [name for name in entries if name != "__metadata__"]
        to, of = draw(st.sampled_from(names)), draw(st.sampled_from(names))
        entries[to] = entries[to] | {"data_offsets": entries[of]["data_offsets"]}
        header = json.dumps(entries).encode()
    size = draw(st.sampled_from([0, 1, 2**31, 2**63, 2**64 - 1])) if where == "length" else len(header)
    if where == "data":
        data = data[: draw(st.integers(0, len(data)))] + draw(st.binary(max_size=9))
    whole = struct.pack("<Q", size) + header + data
    return whole[: draw(st.integers(0, len(whole)))] if where == "cut" else whole
