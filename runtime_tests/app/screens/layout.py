"""A layout of the app as HTML: linear layouts become flex boxes, frames become grids, dp and sp become CSS pixels.

A Scene says what the app's code would have done to the views.  A widget or an attribute that is not known raises
Unknown.
"""

import html
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from runtime_tests.app.screens.resources import Resources, Unknown, attributes

# Nothing to see on a still picture.
# fmt: off
UNSEEN = frozenset((
    "accessibilityLiveRegion", "baselineAligned", "checkedButton", "clipToPadding", "completionThreshold",
    "contentDescription", "digits", "dropDownHeight", "fitsSystemWindows", "id", "imeOptions",
    "importantForAccessibility", "indeterminateTint", "inputType", "labelFor", "layout", "maxHeight", "maxLength",
    "popupBackground", "scaleType", "selectAllOnFocus", "stateListAnimator", "style", "textAllCaps", "textIsSelectable",
))
# fmt: on
TEXTS = frozenset(("TextView", "Button", "EditText", "AutoCompleteTextView", "RadioButton"))
TOUCHED = frozenset(("Button", "EditText", "AutoCompleteTextView", "RadioButton", "Spinner", "ImageButton", "SeekBar"))
GRAVITY = {
    "center": "justify-content:center;align-items:center;text-align:center;",
    "center_vertical": "align-items:center;",
    "end": "justify-content:flex-end;text-align:right;",
}


@dataclass(frozen=True)
class Scene:
    """By ids of views: their texts, what is shown or hidden against the layout, states, pictures and the rest."""

    texts: dict[str, str] = field(default_factory=dict)
    shown: frozenset[str] = frozenset()
    hidden: frozenset[str] = frozenset()
    states: dict[str, frozenset[str]] = field(default_factory=dict)
    # Addresses of pictures.
    pictures: dict[str, str] = field(default_factory=dict)
    # 0 to 1.
    progress: dict[str, float] = field(default_factory=dict)
    # Layouts that the code adds to a view, with the texts of their own ids.
    rows: dict[str, list[tuple[str, dict[str, str]]]] = field(default_factory=dict)
    # Whether what scrolls is at its end, not at its beginning.
    at_end: bool = False


class Page:
    def __init__(self, resources: Resources, scene: Scene):
        self.resources, self.scene = resources, scene

    def body(self, layout: str) -> str:
        root = self.resources.layout(layout)
        return f'<div class="screen">{self._view(root, "column", {}, self.scene.texts)}</div>'

    def _view(self, element: Element, parent: str, over: dict[str, str], texts: dict[str, str]) -> str:
        given = self._given(element) | over
        if element.tag == "include":
            size = {name: value for name, value in given.items() if name.startswith("layout_") or name == "id"}
            return self._view(self.resources.layout(given["layout"].split("/")[1]), parent, size, texts)
        name = self.resources.value(given.get("id", ""))
        if self._is_gone(name, given):
            return ""
        kind = element.tag.rpartition(".")[2]
        states = self.scene.states.get(name, frozenset())
        css, seen = self._box(given, parent, states)
        inner, css_inner, seen_inner = self._inside(kind, parent, element, name, given, texts, states)
        left = given.keys() - seen - seen_inner - UNSEEN - {"visibility"}
        if left:
            raise Unknown(f"{', '.join(sorted(left))} of <{kind}>")
        touch = ' data-touch="1"' if kind in TOUCHED else ""
        return f'<div id="{name}" data-kind="{kind}"{touch} style="{html.escape(css + css_inner)}">{inner}</div>'

    def _given(self, element: Element) -> dict[str, str]:
        own = attributes(element)
        style = self.resources.style(own["style"].split("/")[1]) if "style" in own else {}
        return style | own

    def _is_gone(self, name: str, given: dict[str, str]) -> bool:
        gone = given.get("visibility") == "gone"
        return name in self.scene.hidden or (gone and name not in self.scene.shown)

    def _box(self, given: dict[str, str], parent: str, states: frozenset[str]) -> tuple[str, set[str]]:
        """Size, margins, padding and background, and the attributes that they took."""
        css, seen = "", {"layout_width", "layout_height", "layout_weight"}
        for axis, main in (("width", parent == "row"), ("height", parent == "column")):
            size = given[f"layout_{axis}"]
            if main and float(given.get("layout_weight", 0)):
                css += f"flex:{given['layout_weight']} 1 0;min-{axis}:0;"
            elif size == "match_parent":
                css += f"min-{axis}:0;" + (f"flex:1 1 100%;{axis}:100%;" if main else "align-self:stretch;")
                css += "justify-self:stretch;" if parent.endswith("grid") else ""
            elif size == "wrap_content":
                css += "flex:none;" if main else "align-self:flex-start;" if parent != "row" else ""
            else:
                css += f"{axis}:{self.resources.pixels(size)}px;" + ("flex:none;" if main else "")
        for name in given:
            value = given[name]
            if name in BOX:
                css += f"{BOX[name]}:{self.resources.pixels(value)}px;"
            elif name == "background":
                css += self.resources.css(value, states)
            elif name not in ("minHeight",):
                continue
            seen.add(name)
        if "minHeight" in given:
            css += f"min-height:{self.resources.pixels(given['minHeight'])}px;"
        return css, seen

    def _inside(
        self,
        kind: str,
        parent: str,
        element: Element,
        name: str,
        given: dict[str, str],
        texts: dict[str, str],
        states: frozenset[str],
    ) -> tuple[str, str, set[str]]:
        """HTML of what is in a view, CSS that it wants, and the attributes that it took."""
        if kind in ("LinearLayout", "RadioGroup", "ScrollView"):
            direction = "row" if given.get("orientation") == "horizontal" else "column"
            children = "".join(self._view(child, direction, {}, texts) for child in element)
            for layout, row in self.scene.rows.get(name, []):
                children += self._view(self.resources.layout(layout), direction, {}, row)
            css = f"display:flex;flex-direction:{direction};align-items:flex-start;"
            if kind == "ScrollView":
                css += "overflow:hidden;" + ("justify-content:flex-end;" if self.scene.at_end else "")
            css += self._gravity(given, direction)
            return children, css, {"orientation", "gravity"}
        if kind == "FrameLayout":
            fits = "grid" if given["layout_height"] == "wrap_content" else "full grid"
            inner = "".join(self._view(child, fits, {}, texts) for child in element)
            return inner, "display:grid;grid-template-rows:minmax(0,1fr);", set()
        if kind in TEXTS:
            return self._text(kind, name, given, texts, states)
        if kind == "Spinner":
            row = {"": texts.get(name, "")}
            inner = self._view(self.resources.layout("item_choice"), "column", {}, row)
            return inner, "display:flex;flex-direction:column;justify-content:center;", set()
        if kind == "ImageButton":
            return self.resources.svg(given["src"]), "display:flex;align-items:center;justify-content:center;", {"src"}
        if kind == "PictureView":
            picture = self.scene.pictures.get(name, "")
            shown = f'<img src="{picture}" class="picture">' if picture else ""
            # As large as there is room for, in its proportions and in the middle.
            return shown, "height:100%;" if parent == "full grid" else "aspect-ratio:1;", {"layout_gravity"}
        if kind == "ProgressBar":
            return self._bar(given, self.scene.progress[name]), "position:relative;", {"progressDrawable"}
        if kind == "SeekBar":
            return self._slider(int(given["progress"]) / int(given["max"])), "position:relative;", {"max", "progress"}
        if kind == "View":
            return "", "", set()
        raise Unknown(f"<{kind}>")

    def _text(
        self, kind: str, name: str, given: dict[str, str], texts: dict[str, str], states: frozenset[str]
    ) -> tuple[str, str, set[str]]:
        text = texts.get(name, self.resources.value(given.get("text", "")))
        is_hint = not text and "hint" in given
        text = self.resources.value(given["hint"]) if is_hint else text
        colour = self.resources.color(given["textColorHint" if is_hint else "textColor"], states)
        css = f"display:flex;color:{colour};font-size:{self.resources.pixels(given['textSize'])}px;"
        css += "font-weight:bold;" if given.get("textStyle") == "bold" else ""
        css += self._gravity(given, "row")
        shown = html.escape(text)
        words = f"<span>{shown}</span>"
        if given.get("maxLines") == "1":
            words = f'<span class="line">{shown}</span>'
        if kind == "RadioButton" and "drawableTop" in given:
            tint = self.resources.color(given["drawableTint"], states)
            # The icon is at the top, the text in the middle of what is left.
            words = self.resources.svg(given["drawableTop"], tint) + words.replace("<span>", '<span class="rest">')
            css += "flex-direction:column;"
        elif kind == "RadioButton":
            accent = self.resources.color("@color/accent" if "checked" in states else "@color/text_quiet", states)
            words = f'<i class="radio {" ".join(states)}" style="color:{accent}"></i>' + words
            css += "align-items:center;"
        taken = {"text", "textColor", "textSize", "textStyle", "gravity", "maxLines", "ellipsize"}
        taken |= {"hint", "textColorHint"}
        return words, css, taken | {"drawableTop", "drawableTint", "button"}

    def _gravity(self, given: dict[str, str], direction: str) -> str:
        gravity = given.get("gravity")
        if gravity is None:
            return ""
        if gravity not in GRAVITY or (direction == "column" and gravity != "center"):
            raise Unknown(f"gravity {gravity}")
        return GRAVITY[gravity]

    def _slider(self, done: float) -> str:
        """As Material draws it, in the theme's colours, where the layout puts it."""
        accent, rest = (self.resources.color(f"@color/{name}", frozenset()) for name in ("accent", "outline"))
        line = "position:absolute;top:calc(50% - 1px);height:2px;"
        return (
            '<div style="position:absolute;inset:0 16px;">'
            f'<div style="{line}width:100%;background:{rest}"></div>'
            f'<div style="{line}width:{100 * done}%;background:{accent}"></div>'
            f'<div style="position:absolute;top:calc(50% - 6px);left:calc({100 * done}% - 6px);width:12px;height:12px;'
            f'border-radius:6px;background:{accent}"></div></div>'
        )

    def _bar(self, given: dict[str, str], done: float) -> str:
        parts = self.resources.layers(given["progressDrawable"])
        back = self.resources.shape(parts["@android:id/background"], frozenset())
        front = self.resources.shape(parts["@android:id/progress"], frozenset())
        return (
            f'<div style="position:absolute;inset:0;{back}"></div>'
            f'<div style="position:absolute;inset:0 auto 0 0;width:{100 * done}%;{front}"></div>'
        )


BOX = {
    "layout_marginTop": "margin-top",
    "layout_marginBottom": "margin-bottom",
    "layout_marginStart": "margin-left",
    "layout_marginEnd": "margin-right",
    "padding": "padding",
    "paddingTop": "padding-top",
    "paddingBottom": "padding-bottom",
    "paddingLeft": "padding-left",
    "paddingRight": "padding-right",
}
