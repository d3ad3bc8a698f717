"""An APK of the app's own sources without Gradle and the SDK.

It is for the checks alone and is nobody's to install: it has other people's classes and libraries of another build of
ExecuTorch, lacks those of fbjni and nativeloader, which Gradle brings, and is signed with a key that is thrown away.
"""

import shutil
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runtime_tests.app import gradle, java, tools

ANDROID = "http://schemas.android.com/apk/res/android"
# The API level of the framework's resources; what is for newer ones is left out of the check.
FRAMEWORK_API = 29
NEWER_ATTRIBUTES = ("dataExtractionRules", "enableOnBackInvokedCallback", "localeConfig")
PASSWORD = "throw-away"


@dataclass(frozen=True)
class Built:
    """What is left in a folder."""

    core: Path
    app: Path
    dex: Path
    apk: Path


def build(folder: Path, jars: tools.Jars, assets: Mapping[str, Path]) -> Built:
    """The signed APK with some more assets, and what it is made of. Raises Failed, Missing."""
    known = gradle.app()
    packaged = resources(folder, known, assets)
    core = java.compile_jar(folder / "core.jar", java.sources(gradle.CORE / "java"))
    sources = java.sources(gradle.APP / "java", folder / "generated")
    app = java.compile_jar(folder / "app.jar", sources, (core, jars.android, jars.executorch))
    dex = java.dex(folder / "dex", (core, app, jars.executorch), jars.android, jars.d8)
    with zipfile.ZipFile(packaged, "a") as archive:
        archive.write(dex, dex.name, zipfile.ZIP_DEFLATED)
        for abi in known.abis:
            archive.write(jars.libraries[abi], f"lib/{abi}/libexecutorch.so", zipfile.ZIP_STORED)
    return Built(core, app, dex, sign(packaged, folder))


def resources(folder: Path, known: gradle.App, assets: Mapping[str, Path]) -> Path:
    """An APK of manifest, resources and assets; R.java is left in `generated`. Raises Failed, Missing."""
    kept, generated = folder / "res", folder / "generated"
    shutil.copytree(gradle.APP / "res", kept, ignore=_newer)
    shutil.copytree(gradle.APP / "assets", folder / "assets", ignore=shutil.ignore_patterns(".*"))
    for name, file in assets.items():
        shutil.copy(file, folder / "assets" / name)
    generated.mkdir()
    framework = tools.installed(tools.FRAMEWORK)[0]
    command = [tools.tool("aapt"), "package", "-f", "-m", "-J", generated, "-S", kept, "-A", folder / "assets"]
    command += ["-M", manifest(folder / "AndroidManifest.xml", known), "-I", framework, "-0", "zip"]
    command += ["--min-sdk-version", known.min_api, "--target-sdk-version", known.target_api]
    command += ["--version-code", known.version_code, "--version-name", known.version_name]
    command += ["--rename-manifest-package", known.application]
    java.run([*command, "-F", folder / "resources.apk"])
    return folder / "resources.apk"


def manifest(file: Path, known: gradle.App) -> Path:
    """The app's manifest with the package that Gradle gives it."""
    ElementTree.register_namespace("android", ANDROID)
    tree = ElementTree.parse(gradle.APP / "AndroidManifest.xml")
    tree.getroot().set("package", known.namespace)
    for element in tree.iter():
        for name in NEWER_ATTRIBUTES:
            element.attrib.pop(f"{{{ANDROID}}}{name}", None)
    tree.write(file, encoding="utf-8", xml_declaration=True)
    return file


def sign(unsigned: Path, folder: Path) -> Path:
    """The APK aligned and signed. Raises Failed, Missing."""
    keys, aligned, signed = folder / "key.p12", folder / "aligned.apk", folder / "demo.apk"
    name = ["-alias", "check", "-dname", "CN=check", "-keyalg", "EC", "-groupname", "secp256r1", "-validity", "1"]
    store = ["-keystore", keys, "-storetype", "PKCS12", "-storepass", PASSWORD]
    java.run([tools.tool("keytool"), "-genkeypair", *name, *store])
    java.run([tools.tool("zipalign"), "-p", "-f", 4, unsigned, aligned])
    with_key = ["--ks", keys, "--ks-pass", f"pass:{PASSWORD}", "--min-sdk-version", java.MIN_API]
    java.run([tools.tool("apksigner"), "sign", *with_key, "--out", signed, aligned])
    for large in (unsigned, aligned):
        large.unlink()
    return signed


def _newer(folder: str, names: list[str]) -> list[str]:
    """Of a folder of resources, those for Android versions that the framework does not know."""
    found = []
    for name in names:
        version = name.rpartition("-v")[2]
        if version.isdecimal() and int(version) > FRAMEWORK_API:
            found.append(name)
    return found
