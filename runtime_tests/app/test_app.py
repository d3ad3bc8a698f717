"""android_demo/: the app's own sources become an APK, and draw the pictures of Python's runtime on a JVM."""

import hashlib
import re
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from executorch.exir._serialize._program import deserialize_pte_binary

from edge_hadanorm.bundle import IMAGE_ENCODER, Bundle
from runtime_tests.app import api_levels, apk, bundles, gradle, java, jvm, tools, verify
from runtime_tests.app.originals import Begin
from runtime_tests.app.parity import Case, write
from runtime_tests.device import machine, programs
from runtime_tests.device.toolchain import Missing

ROOT = gradle.ROOT.parent
ASSET = "reference.zip"
BUNDLES = (*bundles.REFERENCE, bundles.STOCHASTIC, *bundles.PIPELINES)
EXACT = "exact 8"
# Prompt, seed, plan, guidance, negative prompt.
ASKED = [
    ("red heart", 0, "1", 1.0, "rocket"),
    ("grinning face", 7, "4", None, None),
    ("rocket", 2**63 - 1, "20", 7.5, "red heart"),
    ("", 2**32, "2", 0.0, None),
]
# How pictures begin with others.
BEGINS = [Begin(0.6), Begin(1.0, masked=True), Begin(0.5, masked=True)]


@pytest.fixture(scope="module")
def jars() -> tools.Jars:
    try:
        jvm.natives()
        return tools.build()
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def asset(tmp_path_factory) -> Path:
    """The bundle that a build of the app may bring, zipped."""
    bundle = bundles.made("hadanorm-w4a8")
    return java.pack(tmp_path_factory.mktemp("asset") / ASSET, bundle.folder)


@pytest.fixture(scope="module")
def built(jars, asset, tmp_path_factory) -> apk.Built:
    return apk.build(tmp_path_factory.mktemp("apk"), jars, {ASSET: asset})


# The APK.


@pytest.mark.slow
def test_an_installer_sees_what_the_gradle_files_say(built):
    known = gradle.app()
    seen = verify.badging(built.apk)
    assert (seen.package, seen.activity) == (known.application, f"{known.namespace}.MainActivity")
    assert (seen.min_api, seen.target_api) == (java.MIN_API, known.target_api)
    assert known.min_api == java.MIN_API
    assert not seen.permissions
    assert seen.abis == sorted(known.abis) == sorted(tools.ABIS)


@pytest.mark.slow
def test_the_package_is_signed_and_aligned(built):
    signed = verify.signatures(built.apk)
    assert signed["v2"]
    assert signed["v3"]
    verify.aligned(built.apk)


@pytest.mark.slow
def test_libraries_are_mapped_from_the_package_and_bundles_are_not_compressed_twice(built, jars, asset):
    with zipfile.ZipFile(built.apk) as package:
        inside = {info.filename: info for info in package.infolist()}
        for abi, library in jars.libraries.items():
            stored = inside[f"lib/{abi}/libexecutorch.so"]
            assert (stored.compress_type, stored.file_size) == (zipfile.ZIP_STORED, library.stat().st_size)
        assert package.read(f"assets/{ASSET}") == asset.read_bytes()
        assert inside[f"assets/{ASSET}"].compress_type == zipfile.ZIP_STORED


@pytest.fixture(scope="module")
def bytecode(built) -> dict[str, verify.Class]:
    return verify.classes(built.dex)


def classes(jar: Path) -> set[str]:
    with zipfile.ZipFile(jar) as archive:
        return {f"L{name.removesuffix('.class')};" for name in archive.namelist() if name.endswith(".class")}


@pytest.mark.slow
def test_the_bytecode_has_every_class_of_ours_and_of_executorch_and_no_test(built, jars, bytecode):
    ours = classes(built.core) | classes(built.app)
    assert ours | classes(jars.executorch) <= bytecode.keys()
    assert {name for name in bytecode if not name.startswith((verify.OURS, verify.EXECUTORCH))} == set()
    assert not any("Test;" in name for name in ours)


@pytest.mark.slow
def test_one_class_knows_executorch_and_the_core_knows_no_android(bytecode):
    def users(package: str, within: str = verify.OURS) -> set[str]:
        found = {name for name, one in bytecode.items() if any(other.startswith(package) for other in one.names)}
        return {name.rstrip(";").partition("$")[0] for name in found if name.startswith(within)}

    assert users(verify.EXECUTORCH) == {f"{verify.OURS}demo/ExecuTorchRunner"}
    assert users("Landroid/", f"{verify.OURS}core/") == set()


@pytest.mark.slow
def test_nothing_is_called_that_came_after_the_oldest_android(bytecode, jars):
    known = api_levels.levels(jars.d8)
    assert known["Ljava/util/Base64;"] == 26
    assert known["Landroid/view/View;.setElevation:(F)V"] == 21
    assert api_levels.newer(bytecode, known, java.MIN_API) == {}


# ExecuTorch's library on a phone; that of the npm package, as near as can be had to that of the AAR.


def operators(bundle: Bundle) -> set[str]:
    """The operators and backends that programs call, by the names that they are registered by."""
    found = set()
    for program in bundle.programs.values():
        read = deserialize_pte_binary(bundle.file(program["file"]).read_bytes()).program
        for plan in read.execution_plan:
            found |= {delegate.id for delegate in plan.delegates}
            found |= {f"{operator.name}.{operator.overload}".rstrip(".") for operator in plan.operators}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("abi", tools.ABIS)
@pytest.mark.parametrize("name", BUNDLES)
def test_every_operator_of_the_programs_is_in_the_library(jars, abi, name):
    library, called = jars.libraries[abi].read_bytes(), operators(bundles.made(name))
    assert "XnnpackBackend" in called
    assert not {operator for operator in called if operator.encode() + b"\0" not in library}


@pytest.mark.slow
@pytest.mark.parametrize("abi", tools.ABIS)
def test_every_native_that_is_stood_in_for_is_in_the_library(jars, abi):
    natives = re.findall(r"Java_org_pytorch_executorch_Module_(\w+)", jvm.NATIVES.read_text())
    library = jars.libraries[abi].read_bytes()
    assert len(natives) > 4
    assert not {native for native in natives if native.encode() + b"\0" not in library}


# What the Gradle files say, which are not run.


def test_the_runtime_is_the_one_that_programs_are_exported_for():
    constraints = (ROOT / ".ci/constraints.txt").read_text()
    assert re.search(r"^executorch==(.*)$", constraints, re.MULTILINE)[1] == gradle.executorch()


def test_every_module_of_the_build_is_there():
    settings = (gradle.ROOT / "settings.gradle").read_text()
    modules = re.findall(r"':(\w+)'", settings)
    assert sorted(modules) == ["app", "core"]
    assert all((gradle.ROOT / module / "build.gradle").is_file() for module in modules)


def test_java_is_written_as_the_rest_is():
    for file in java.sources(gradle.ROOT):
        lines = file.read_text().splitlines()
        assert max(map(len, lines)) <= 120, file
        assert not any(re.match(r"import .*\*;|.*\t|.* $", line) for line in lines), file


def test_nothing_of_others_is_kept_but_the_gradle_wrapper():
    foreign = {".aar", ".apk", ".class", ".dex", ".jar", ".so"}
    kept = [path.name for path in gradle.ROOT.rglob("*") if path.suffix in foreign and "build" not in path.parts]
    assert kept == ["gradle-wrapper.jar"]


# The app on this machine's JVM.


@pytest.fixture(scope="module")
def tests(built, jars, tmp_path_factory) -> jvm.Tests:
    return jvm.Tests(tmp_path_factory.mktemp("tests"), (built.core, built.app, jars.executorch), jars)


@pytest.fixture(scope="module")
def translated(built, jars, tmp_path_factory) -> Path:
    """The app's and ExecuTorch's classes, from what D8 made of them."""
    folder = tmp_path_factory.mktemp("translated")
    all_jars = (built.core, built.app, jars.executorch)
    bytecode = java.dex(folder / "dex", all_jars, jars.android, jars.d8, java.NO_CODE_IN_INTERFACES)
    return java.undex(folder / "translated.jar", bytecode)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory) -> Path:
    """What Python says, for the tests of the core."""
    folder = tmp_path_factory.mktemp("vectors") / "vectors"
    java.run([sys.executable, "-m", "runtime_tests.app.vectors", folder], cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def linear(tmp_path_factory) -> Path:
    """A program of one linear, with an input and what Python's runtime makes of it."""
    subject, folder = programs.subject(EXACT), tmp_path_factory.mktemp("linear")
    (folder / "linear.pte").write_bytes(subject.file.read_bytes())
    subject.inputs[0].tofile(folder / "linear.input")
    machine.on_python(subject.file, subject.method, subject.inputs).tofile(folder / "linear.output")
    return folder


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Path:
    """What Python's runtime makes of all bundles."""
    folder = tmp_path_factory.mktemp("cases")
    write(folder, [case for name in BUNDLES for case in asked(name)])
    return folder


def asked(name: str) -> list[Case]:
    bundle = bundles.made(name)
    if name in bundles.REFERENCE:
        drawn = [Case(f"{name} {index}", bundle, *request) for index, request in enumerate(ASKED)]
        begun = [Case(f"{name} from {i}", bundle, *ASKED[1], each) for i, each in enumerate(BEGINS)]
        return drawn + begun
    if name == bundles.STOCHASTIC:
        given = ("red heart", 11, bundles.NOISY, 1.5, "rocket")
        return [Case(name, bundle, *given), *(Case(f"{name} {i}", bundle, *given, b) for i, b in enumerate(BEGINS))]
    prompt = bundles.PROMPT[name]
    other = prompt if name == "embedded" else ""
    drawn = [Case(name, bundle, prompt, 3, "4"), Case(f"{name} 1", bundle, other, 4, "2", 1.0)]
    begun = [Case(f"{name} from {i}", bundle, prompt, 5, "4", begin=each) for i, each in enumerate(BEGINS)]
    return drawn + (begun if IMAGE_ENCODER in bundle.programs else [])


@pytest.fixture(scope="module")
def given(vectors, linear, cases, asset) -> dict[str, Path]:
    """What the tests read."""
    return {"vectors": vectors, "programs": linear, "cases": cases, "asset": asset}


@pytest.mark.parametrize("suite", jvm.SUITES)
def test_every_file_with_tests_is_given_to_junit(suite):
    given = [name.rpartition(".")[2] for name in java.tests(jvm.SUITES[suite])]
    assert sorted(given) == sorted(java.test_methods(jvm.SUITES[suite]))


@pytest.mark.slow
@pytest.mark.parametrize("suite", jvm.SUITES)
def test_the_suites_pass(built, jars, tests, given, suite):
    """`desktop` holds the app to Python's runtime: every call of a program and every picture has the same bits."""
    passed = tests.run(suite, (built.core, built.app, jars.executorch), given)
    assert passed >= sum(java.test_methods(jvm.SUITES[suite]).values()) > 1


@pytest.mark.slow
@pytest.mark.parametrize("suite", jvm.SUITES)
def test_the_suites_pass_on_androids_bytecode_translated_back(tests, translated, given, suite):
    passed = tests.run(suite, (translated,), given, java.DEEP_STACK)
    assert passed >= sum(java.test_methods(jvm.SUITES[suite]).values()) > 1


# What is missing or wrong is named.


def test_a_missing_tool_is_named_with_its_package(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Missing, match=r"zipalign is not installed \(apt-get install zipalign\)"):
        tools.tool("zipalign")
    with pytest.raises(Missing, match=r"nowhere\.jar is not there \(apt-get install junit4\)"):
        tools.installed((Path("nowhere.jar"), "junit4"))


def test_an_archive_that_is_another_one_is_refused(tmp_path):
    def fetch(archive: tools.Archive, folder: Path) -> None:
        (folder / "archive.zip").write_bytes(content)

    (tmp_path / "content").mkdir()
    (tmp_path / "content/a.txt").write_text("a")
    content = java.pack(tmp_path / "a.zip", tmp_path / "content").read_bytes()
    right = tools.Archive("some", "1.0", hashlib.sha256(content).hexdigest(), fetch, {"kept.txt": "a.txt"})
    with pytest.raises(Missing, match=r"some 1\.0 has sha256 .*, not 0000.*: it is not what was checked"):
        tools.members(replace(right, sha256="0" * 64), tmp_path / "cache")
    assert tools.members(right, tmp_path / "cache")["kept.txt"].read_text() == "a"


def test_a_failed_command_says_what_the_tool_said():
    with pytest.raises(java.Failed, match="ended with status 3:\nbecause"):
        java.run([sys.executable, "-c", "import sys; print('because'); sys.exit(3)"])
