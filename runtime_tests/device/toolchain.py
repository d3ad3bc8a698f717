"""Builds the runner for this machine and for ARM64, and qemu's instruction counter; says by name what is missing.

ExecuTorch is not built: its wheels carry headers and shared libraries, the one installed here those for this machine,
one that pip downloads those for ARM64. What is built is kept, by the content of what it was built from.
"""

import fcntl
import hashlib
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from edge_hadanorm import files

HERE = Path(__file__).parent
CACHE = Path.home() / ".cache/edge-hadanorm/native"
SYSROOT = "/usr/aarch64-linux-gnu"
TIMEOUT = 600
LIBRARIES = (
    "executorch",
    "executorch_kernels_optimized",
    "executorch_kernels_quantized",
    "executorch_backend_xnnpack",
    "executorch_threadpool",
    "executorch_etdump",
)
# The C++ libraries of a wheel are the same for every Python: one of them is taken.
WHEEL_PYTHON, WHEEL_PLATFORM = "3.11", "manylinux_2_28_aarch64"
WHEEL_SHA256 = {"1.5.1": "8ee02348a3ea80ddf770822911ebf78da616b73afce0fbaaa79f23311c88c66a"}


class Missing(Exception):
    """What is not there and how to get it, in one line."""


@dataclass(frozen=True)
class Architecture:
    """What is compiled for: a compiler, and the Debian packages that bring it."""

    name: str
    compiler: str
    packages: str
    flags: tuple[str, ...] = ()


HOST = Architecture("x86_64", "g++", "g++")
ARM = Architecture("aarch64", "aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu libc6-dev-arm64-cross")


@dataclass(frozen=True)
class Extra:
    """What else a runner is made of: sources (operators that register themselves), and flags before and after them."""

    sources: tuple[Path, ...] = ()
    flags: tuple[str, ...] = ()
    link: tuple[str, ...] = ()


def require(tool: str, packages: str) -> str:
    """The path of a tool. Raises Missing."""
    path = shutil.which(tool)
    if path is None:
        raise Missing(f"{tool} is not installed (apt-get install {packages})")
    return path


def qemu() -> str:
    """The emulator of ARM64 processors. Raises Missing."""
    return require("qemu-aarch64", "qemu-user")


def installed() -> Path:
    """The folder of the ExecuTorch that Python imports, whose libraries are for this machine. Raises Missing."""
    if (sys.platform, platform.machine()) != ("linux", HOST.name):
        raise Missing(f"the runner is built on Linux and {HOST.name}, not on {sys.platform} and {platform.machine()}")
    return Path(find_spec("executorch").submodule_search_locations[0])


def wheel(given: Path | None = None, cache_folder: Path = CACHE) -> Path:
    """The `executorch` folder of an aarch64 wheel: given unpacked, given as a .whl, or downloaded. Raises Missing."""
    if given is not None and given.is_dir():
        candidates = [given, given / "executorch"]
        found = next((folder for folder in candidates if (folder / "lib/libexecutorch.so").is_file()), None)
        if found is None:
            raise Missing(f"{given} is no unpacked executorch wheel: it has no lib/libexecutorch.so")
        return found
    folder = cache_folder / (given.stem if given else f"executorch-{version('executorch')}-{ARM.name}")
    if not folder.exists():
        cache_folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_folder) as downloads, files.new_folder(folder) as partial:
            archive = given or _download(Path(downloads))
            try:
                zipfile.ZipFile(archive).extractall(partial)
            except (OSError, zipfile.BadZipFile) as error:
                raise Missing(f"{archive} is no wheel: {error}") from None
    return folder / "executorch"


def _download(folder: Path) -> Path:
    release = version("executorch")
    if release not in WHEEL_SHA256:
        raise Missing(f"no sha256 is known of executorch {release} for {ARM.name} (give a wheel of it)")
    machine = ["--python-version", WHEEL_PYTHON, "--platform", WHEEL_PLATFORM]
    return pip_download("executorch", release, WHEEL_SHA256[release], folder, *machine)


def pip_download(name: str, release: str, sha256: str, folder: Path, *options: str) -> Path:
    """The wheel of a release, which pip checks and leaves alone in an empty folder. Raises Missing."""
    requirement = folder / "requirements.txt"
    requirement.write_text(f"{name}=={release} --hash=sha256:{sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", *options]
    fetch([*command, "--dest", str(folder), "--requirement", str(requirement)], f"{name} {release}")
    requirement.unlink()
    return next(folder.iterdir())


def fetch(command: Sequence[str], title: str) -> None:
    """Run a command that downloads what the title names. Raises Missing."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Missing(f"{title} could not be downloaded: {reason}")


def kept(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder of the cache, which `make` fills if it is not there; others who would make it wait."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with files.new_folder(folder) as partial:
                make(partial)
    return folder


@cache
def runner(architecture: Architecture, executorch: Path, extra: Extra = Extra(), folder: Path = CACHE) -> Path:
    """The program of runner.cpp against the libraries of an ExecuTorch. Raises Missing."""
    command = [require(architecture.compiler, architecture.packages), "-O2", "-ffp-contract=off", *architecture.flags]
    command += [*includes(executorch), "-DET_EVENT_TRACER_ENABLED", "-DET_USE_THREADPOOL", *extra.flags]
    command += [*map(str, (HERE / "runner.cpp", *extra.sources)), *links(executorch, extra.link)]
    inputs = [*sorted(HERE.glob("*.h")), HERE / "runner.cpp", *extra.sources, executorch / "lib/libexecutorch.so"]
    return compiled(command, f"runner-{architecture.name}", inputs, folder)


def counter(folder: Path = CACHE) -> Path:
    """The plugin of count_instructions.c. Raises Missing."""
    source = HERE / "count_instructions.c"
    return compiled([require("gcc", "gcc"), "-O2", "-shared", "-fPIC", str(source)], "libcount.so", [source], folder)


def includes(executorch: Path) -> list[str]:
    """The flags that ExecuTorch's headers need."""
    include = executorch / "include"
    portable = include / "executorch/runtime/core/portable_type/c10"
    return ["-std=c++17", "-DC10_USING_CUSTOM_GENERATED_MACROS", f"-I{include}", f"-I{portable}"]


def links(executorch: Path, more: Sequence[str] = ()) -> list[str]:
    """The flags that link with all of ExecuTorch's libraries, where they are."""
    libraries = executorch / "lib"
    flags = [f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-Wl,--no-as-needed", *(f"-l{name}" for name in LIBRARIES)]
    return [*flags, *more, "-Wl,--as-needed", "-lpthread", "-ldl", "-Wl,--allow-shlib-undefined"]


def compiled(command: Sequence[str], name: str, inputs: Sequence[Path], folder: Path = CACHE) -> Path:
    """The file `name` that a compiler's command makes of its inputs, made anew only if one of them changed."""
    text = subprocess.run([command[0], "--version"], capture_output=True, check=True).stdout
    contents = [text, " ".join(command).encode(), *(path.read_bytes() for path in inputs)]
    digest = hashlib.blake2b(digest_size=8)
    for content in contents:
        digest.update(hashlib.blake2b(content).digest())
    target = folder / digest.hexdigest() / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.new_file(target) as partial:
            done = subprocess.run([*command, "-o", str(partial)], capture_output=True, text=True, timeout=TIMEOUT)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return target


def build() -> dict[str, Path]:
    """Everything that the tests need. Raises Missing."""
    return {
        "runner": runner(HOST, installed()),
        "runner, ARM64": runner(ARM, wheel()),
        "counter": counter(),
        "emulator": Path(qemu()),
    }


if __name__ == "__main__":
    try:
        for what, path in build().items():
            print(f"{what}: {path}")
    except Missing as missing:
        sys.exit(str(missing))
