"""The app's manifest and resources: what can be known of them without Android, and the harness that draws them."""

import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from runtime_tests.app import bundles, gradle
from runtime_tests.app.screens.layout import Page, Scene
from runtime_tests.app.screens.resources import ANDROID, Resources, Unknown, attributes

APP = gradle.APP
RES = APP / "res"
LAYOUTS = sorted(path.relative_to(RES) for path in RES.glob("layout*/*.xml"))
THEMES = {"light": (), "dark": ("night",)}
# Text and what it is read on; WCAG 2.1 asks for 4.5.
READ = [
    ("text", "background"),
    ("text", "surface"),
    ("text_quiet", "background"),
    ("text_quiet", "surface"),
    ("accent", "background"),
    ("accent", "surface"),
    ("accent", "accent_quiet"),
    ("on_accent", "accent"),
    ("problem", "problem_surface"),
]
# What the code takes a view for, and the elements that are one.
IS_A = {
    "TextView": {"TextView", "EditText", "AutoCompleteTextView", "Button", "RadioButton"},
    "EditText": {"EditText", "AutoCompleteTextView"},
    "ViewGroup": {"LinearLayout", "FrameLayout", "RadioGroup", "ScrollView"},
    "ImageView": {"ImageView", "ImageButton", "PictureView"},
}
TAKEN = (
    re.compile(r"\((\w+)\) \w+\.findViewById\(R\.id\.(\w+)\)"),
    re.compile(r"(\w+) \w+ = findView\(R\.id\.(\w+)\)"),
)
# Attributes that a person reads or hears.
SAID = ("text", "hint", "contentDescription", "label", "title")


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize(("words", "paper"), READ)
def test_text_can_be_read_in_both_themes(theme, words, paper):
    resources = Resources(RES, THEMES[theme])
    lighter, darker = sorted(
        (luminance(resources.color(f"@color/{name}", frozenset())) for name in (words, paper)), reverse=True
    )
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_layouts_take_their_words_from_the_strings(layout):
    for element in ElementTree.parse(RES / layout).iter():
        for name, value in attributes(element).items():
            assert name not in SAID or value.startswith("@string/"), f"{element.tag} says {value}"


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_field_has_a_label_and_every_picture_a_description(layout):
    elements = list(ElementTree.parse(RES / layout).iter())
    labelled = {attributes(element).get("labelFor") for element in elements}
    for element in elements:
        given = attributes(element)
        if element.tag in ("EditText", "AutoCompleteTextView", "Spinner", "SeekBar"):
            assert given["id"] in labelled
        if element.tag == "ImageButton" or element.tag.endswith("PictureView"):
            # The one in a row is described when its name is known.
            named = "contentDescription" in given or given.get("importantForAccessibility") == "no"
            assert named or given["id"] == "@+id/delete"


def test_the_manifest_asks_for_nothing_and_shows_the_activity_alone():
    manifest = ElementTree.parse(APP / "AndroidManifest.xml").getroot()
    assert not [element for element in manifest.iter() if element.tag.startswith("uses-permission")]
    application = attributes(manifest.find("application"))
    assert (application["allowBackup"], application["usesCleartextTraffic"]) == ("false", "false")
    exported = {attributes(part)["name"]: attributes(part)["exported"] for part in manifest.find("application")}
    assert [name for name, value in exported.items() if value == "true"] == ["org.edgehadanorm.demo.MainActivity"]


def test_every_resource_is_used():
    names = {
        (element.tag, element.attrib["name"])
        for file in RES.glob("values*/*.xml")
        for element in ElementTree.parse(file).getroot()
        if element.tag in ("string", "dimen", "color", "bool")
    }
    written = "".join(path.read_text() for pattern in ("res/**/*.xml", "*.xml") for path in APP.glob(pattern))
    code = "".join(path.read_text() for path in APP.rglob("*.java"))
    unused = {
        (kind, name) for kind, name in names if f"@{kind}/{name}" not in written and f"R.{kind}.{name}" not in code
    }
    assert unused == set()


@pytest.mark.parametrize("qualifiers", [(), ("land",)])
def test_views_that_the_code_asks_for_are_there_and_are_what_it_takes_them_for(qualifiers):
    code = "".join(path.read_text() for path in APP.rglob("*.java"))
    resources, kinds = Resources(RES, qualifiers), {}
    for layout in {path.stem for path in LAYOUTS}:
        for element in resources.layout(layout).iter():
            name = attributes(element).get("id", "").removeprefix("@+id/")
            kinds.setdefault(name, element.tag.rpartition(".")[2])
    assert set(re.findall(r"R\.id\.(\w+)", code)) <= kinds.keys()
    taken = [pair for pattern in TAKEN for pair in pattern.findall(code)]
    assert len(taken) > 20
    assert not [(kind, name) for kind, name in taken if kinds[name] not in IS_A.get(kind, {kind})]


@pytest.mark.parametrize(
    "layout",
    [
        '<TextView {0} android:letterSpacing="2" android:textColor="#FF000000" android:textSize="1sp" />',
        "<Chronometer {0} />",
        '<LinearLayout {0} android:gravity="top" />',
        '<View {0} android:background="@drawable/nowhere" />',
    ],
)
def test_what_the_harness_cannot_draw_is_not_drawn(layout, tmp_path):
    size = 'android:layout_width="1dp" android:layout_height="1dp"'
    (tmp_path / "layout").mkdir()
    text = layout.format(f'xmlns:android="{ANDROID[1:-1]}" {size}')
    (tmp_path / "layout/strange.xml").write_text(text)
    with pytest.raises(Unknown):
        Page(Resources(tmp_path, ()), Scene()).body("strange")


@pytest.mark.slow
@pytest.mark.parametrize("turn", ["", "--landscape"])
def test_the_screens_are_drawn_with_targets_for_fingers_and_words_that_fit(turn, tmp_path):
    """The harness fails on a touch target below 48 dp and on text that is cut off."""
    bundle = bundles.made("hadanorm-w4a8")
    command = [
        sys.executable,
        "-m",
        "runtime_tests.app.screens",
        bundle.folder,
        "--out",
        tmp_path / "screens.webp",
        *turn.split(),
    ]
    done = subprocess.run(command, cwd=gradle.ROOT.parent, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "screens.webp").stat().st_size < 150_000
