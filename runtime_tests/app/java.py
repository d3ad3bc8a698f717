"""Java sources to classes, to Dalvik bytecode and back, and the tests of classes on this machine's JVM."""

import os
import re
import subprocess
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from runtime_tests.app import tools

# The oldest Android that the app is for, and the Java that its sources are in.
MIN_API, RELEASE = 24, 8
# Of bytecode that is translated back: D8 takes the code of interfaces out of them, as older class files cannot say it.
NO_CODE_IN_INTERFACES = 23
# Every method that was translated back has a frame of 300 values.
DEEP_STACK = "-Xss16m"
# Everything that javac can warn of, but for what RELEASE needs and what annotations of other people's classes lack.
LINT = "-Xlint:all,-options,-classfile,-strictfp"
TIMEOUT = 600


class Failed(Exception):
    """What a tool that was run said."""


def run(command: Sequence[object], **options: object) -> str:
    """The output of a command. Raises Failed."""
    done = subprocess.run(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        **options,
    )
    if done.returncode:
        raise Failed(f"{Path(str(command[0])).name} ended with status {done.returncode}:\n{_shortened(done.stdout)}")
    return done.stdout


def _shortened(text: str, most: int = 8000) -> str:
    half = most // 2
    return text if len(text) <= most else f"{text[:half]}\n...\n{text[-half:]}"


def sources(*folders: Path) -> list[Path]:
    """The Java files below folders."""
    return [path for folder in folders for path in sorted(folder.rglob("*.java"))]


def compile_jar(jar: Path, files: Iterable[Path], classpath: Sequence[Path] = (), strict: bool = True) -> Path:
    """A jar of the classes of Java files. strict: warnings are errors. Raises Failed."""
    folder = jar.with_suffix("")
    folder.mkdir(parents=True)
    command = [tools.tool("javac"), "--release", RELEASE, "-encoding", "UTF-8", "-proc:none", "-d", folder]
    command += [LINT, *(["-Werror"] if strict else [])]
    run([*command, "-classpath", _joined(classpath), *files])
    return pack(jar, folder)


def pack(archive: Path, folder: Path) -> Path:
    """A zip of all files below a folder, in the order of their names and without their times."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            info = zipfile.ZipInfo(path.relative_to(folder).as_posix())
            info.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(info, path.read_bytes())
    return archive


def dex(folder: Path, jars: Sequence[Path], android: Path, d8: Path, min_api: int = MIN_API) -> Path:
    """The one classes.dex of jars, in a folder. Raises Failed."""
    folder.mkdir(parents=True)
    command = [tools.tool("java"), "-cp", d8, "com.android.tools.r8.D8", "--release", "--min-api", min_api]
    run([*command, "--lib", android, "--output", folder, *jars])
    made = sorted(path.name for path in folder.iterdir())
    if made != ["classes.dex"]:
        raise Failed(f"D8 made {', '.join(made)}, not one classes.dex")
    return folder / "classes.dex"


def undex(jar: Path, bytecode: Path) -> Path:
    """A jar of the classes that a classes.dex for NO_CODE_IN_INTERFACES stands for. Raises Failed."""
    # It is a module of the system's Python, and takes the first one of the path.
    environment = os.environ | {"PATH": os.defpath}
    said = run([tools.tool("enjarify"), bytecode, "-o", jar], env=environment)
    if not re.search(r"\b0 classes had errors", said):
        raise Failed(f"enjarify could not translate everything back:\n{_shortened(said)}")
    return jar


def junit(classpath: Sequence[Path], classes: Sequence[str], properties: Mapping[str, object], *options: str) -> int:
    """How many tests of classes passed, all of them; the classpath has JUnit. options: of the JVM. Raises Failed."""
    given = [f"-D{name}={value}" for name, value in properties.items()]
    command = [tools.tool("java"), "-ea", "-Xcheck:jni", "-Xmx1g", *options, *given, "-cp", _joined(classpath)]
    said = run([*command, "org.junit.runner.JUnitCore", *classes])
    passed = re.search(r"^OK \((\d+) tests?\)$", said, re.MULTILINE)
    if not passed or "WARNING in native method" in said:
        raise Failed(f"JUnit and the JVM did not say OK:\n{_shortened(said)}")
    return int(passed[1])


def tests(folder: Path) -> list[str]:
    """The names of the classes below a source folder that JUnit runs: those whose name ends in Test."""
    return [
        ".".join(path.relative_to(folder).with_suffix("").parts)
        for path in sources(folder)
        if path.stem.endswith("Test")
    ]


def test_methods(folder: Path) -> dict[str, int]:
    """How many methods are marked as tests, by the names of the files below a source folder that have any."""
    marked = {path.stem: len(re.findall(r"^\s*@Test\b", path.read_text(), re.MULTILINE)) for path in sources(folder)}
    return {name: count for name, count in marked.items() if count}


def _joined(paths: Sequence[Path]) -> str:
    return os.pathsep.join(map(str, paths))
