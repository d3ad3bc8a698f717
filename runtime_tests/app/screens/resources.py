"""The app's resources as Android would choose them, and drawables as CSS and SVG.

Whatever is met and not known here raises Unknown: a picture of the screens shows what the resources say, or is not
drawn.
"""

import html
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

ANDROID = "{http://schemas.android.com/apk/res/android}"
# What the resources take from Android itself.
SYSTEM = {
    "@android:color/transparent": "transparent",
    "@null": "",
    "@android:id/background": "@android:id/background",
    "@android:id/progress": "@android:id/progress",
}


class Unknown(Exception):
    """An element, attribute or value that this harness does not draw."""


def attributes(element: Element) -> dict[str, str]:
    """Of the android namespace without it, others as they are."""
    return {name.removeprefix(ANDROID): value for name, value in element.attrib.items()}


class Resources:
    """qualifiers: which folders apply, the best first, such as ("night", "land"); values without one apply last."""

    def __init__(self, root: Path, qualifiers: tuple[str, ...]):
        self.root, self.qualifiers = root, qualifiers
        self._values: dict[tuple[str, str], str] = {}
        self._styles: dict[str, dict[str, str]] = {}
        for folder in reversed(self._folders("values")):
            for file in sorted(folder.glob("*.xml")):
                self._read(ElementTree.parse(file).getroot())

    def value(self, text: str) -> str:
        """What a text or a reference such as @dimen/edge stands for, at the end of its references."""
        while text.startswith("@"):
            if text in SYSTEM:
                return SYSTEM[text]
            if text.startswith(("@+id/", "@id/")):
                return text.split("/")[1]
            kind, name = text[1:].split("/")
            if kind in ("drawable", "layout", "mipmap") or (kind == "color" and (kind, name) not in self._values):
                return text
            text = self._find(kind, name)
        return text

    def string(self, name: str, *arguments: object) -> str:
        """A string resource with its arguments, %1$s and %1$d alike."""
        text = self._find("string", name)
        return re.sub(r"%(\d)\$[sd]", lambda match: str(arguments[int(match[1]) - 1]), text)

    def style(self, name: str) -> dict[str, str]:
        """Attributes of one of the app's styles and its parents; those of Android's own are its widgets' look."""
        items = self._styles[name]
        parent = items.get("parent", "")
        above = self.style(parent) if parent and not parent.startswith("android:") else {}
        return above | {key: value for key, value in items.items() if key != "parent"}

    def layout(self, name: str) -> Element:
        return self._xml("layout", name)

    def color(self, text: str, states: frozenset[str]) -> str:
        """A colour for CSS, of a list that for a widget in these states."""
        value = self.value(text)
        if value.startswith("@color/"):
            item = _chosen(self._xml("color", value.split("/")[1]), states)
            return self.color(attributes(item)["color"], states)
        if re.fullmatch("#[0-9A-Fa-f]{8}", value):
            return f"#{value[3:]}{value[1:3]}"
        if value == "transparent":
            return value
        raise Unknown(f"colour {text}")

    def css(self, text: str, states: frozenset[str]) -> str:
        """Declarations that draw a colour or a drawable behind a widget."""
        value = self.value(text)
        if value.startswith("@drawable/"):
            return self._drawable(self._xml("drawable", value.split("/")[1]), states)
        return f"background-color:{self.color(text, states)};"

    def layers(self, text: str) -> dict[str, Element]:
        """The items of a layer list by their ids."""
        items = self._xml("drawable", self.value(text).split("/")[1])
        return {attributes(item).get("id", str(index)): item for index, item in enumerate(items)}

    def svg(self, text: str, tint: str | None = None) -> str:
        """A vector drawable, all of it in one colour if there is a tint."""
        vector = self._xml("drawable", self.value(text).split("/")[1])
        given = attributes(vector)
        paths = "".join(self._path(path, tint) for path in vector)
        width, height = (self.pixels(given[name]) for name in ("width", "height"))
        box = f"0 0 {given['viewportWidth']} {given['viewportHeight']}"
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="{box}">{paths}</svg>'
        )

    def pixels(self, text: str) -> float:
        """dp and sp are CSS pixels here."""
        match = re.fullmatch(r"(-?[\d.]+)(dp|sp)", self.value(text))
        if match is None:
            raise Unknown(f"size {text}")
        return float(match[1])

    def shape(self, element: Element, states: frozenset[str]) -> str:
        """The one drawable in an item."""
        return self._drawable(next(iter(element)), states)

    def _drawable(self, element: Element, states: frozenset[str]) -> str:
        match element.tag:
            case "shape":
                return self._shape(element)
            case "selector":
                return self._item(_chosen(element, states), states)
            case "ripple":
                return self._item(element[0], states) if len(element) else ""
            case "scale":
                return self.shape(element, states)
            case "layer-list":
                return "".join(self._item(item, states) for item in element)
        raise Unknown(f"drawable <{element.tag}>")

    def _item(self, item: Element, states: frozenset[str]) -> str:
        given = attributes(item)
        if "drawable" not in given:
            return self.shape(item, states)
        if "gravity" not in given:
            return self.css(given["drawable"], states)
        if given["gravity"] != "end|center_vertical":
            raise Unknown(f"gravity {given['gravity']} of an item")
        picture = quote(self.svg(given["drawable"]))
        return (
            f"background-image:url('data:image/svg+xml,{picture}');background-repeat:no-repeat;"
            f"background-position:right {self.pixels(given['end'])}px center;"
        )

    def _shape(self, shape: Element) -> str:
        css = "box-sizing:border-box;"
        for part in shape:
            given = attributes(part)
            match part.tag:
                case "solid":
                    css += f"background-color:{self.color(given['color'], frozenset())};"
                case "stroke":
                    colour = self.color(given["color"], frozenset())
                    css += f"box-shadow:inset 0 0 0 {self.pixels(given['width'])}px {colour};"
                case "corners":
                    css += f"border-radius:{self.pixels(given['radius'])}px;"
                case _:
                    raise Unknown(f"<{part.tag}> in a shape")
        return css

    def _path(self, path: Element, tint: str | None) -> str:
        names = {
            "pathData": "d",
            "strokeWidth": "stroke-width",
            "strokeColor": "stroke",
            "strokeLineCap": "stroke-linecap",
            "strokeLineJoin": "stroke-linejoin",
            "fillColor": "fill",
            "fillAlpha": "fill-opacity",
        }
        drawn = {"fill": "none"}
        for name, value in attributes(path).items():
            if name not in names:
                raise Unknown(f"{name} of a path")
            colour = name.endswith("Color")
            drawn[names[name]] = (tint or self.color(value, frozenset())) if colour else value
        return "<path " + " ".join(f'{name}="{html.escape(value)}"' for name, value in drawn.items()) + "/>"

    def _folders(self, kind: str) -> list[Path]:
        """The best first."""
        names = [f"{kind}-{qualifier}" for qualifier in self.qualifiers] + [kind]
        return [self.root / name for name in names if (self.root / name).is_dir()]

    def _xml(self, kind: str, name: str) -> Element:
        for folder in self._folders(kind):
            if (folder / f"{name}.xml").exists():
                return ElementTree.parse(folder / f"{name}.xml").getroot()
        raise Unknown(f"@{kind}/{name}")

    def _find(self, kind: str, name: str) -> str:
        if (kind, name) not in self._values:
            raise Unknown(f"@{kind}/{name}")
        return self._values[kind, name]

    def _read(self, values: Element) -> None:
        for element in values:
            name = element.attrib["name"]
            if element.tag == "style":
                parent = element.attrib.get("parent", name.rpartition(".")[0])
                self._styles[name] = {"parent": parent.removeprefix("@style/")} | dict(_items(element))
            else:
                self._values[element.tag, name] = element.text or ""


def _items(style: Element) -> Iterator[tuple[str, str]]:
    for item in style:
        yield item.attrib["name"].removeprefix("android:"), item.text or ""


def _chosen(selector: Element, states: frozenset[str]) -> Element:
    """The first item whose states hold; a widget is enabled unless it is said to be `disabled`."""
    now = set(states) | ({"enabled"} if "disabled" not in states else set())
    for item in selector:
        wanted = {name: value for name, value in attributes(item).items() if name.startswith("state_")}
        if all((name.removeprefix("state_") in now) == (value == "true") for name, value in wanted.items()):
            return item
    raise Unknown(f"a selector without an item for {sorted(states)}")
