"""Compiles what is in native/: for this machine, and for ARM64 against the libraries of ExecuTorch's own wheel."""

import shutil
import struct
import subprocess
from pathlib import Path

NATIVE = Path(__file__).parent / "native"
KERNEL = NATIVE / "hadamard_kernel.cpp"
CROSS = "aarch64-linux-gnu-g++"
CPU = "cortex-a76"
LIBRARIES = [
    "executorch",
    *(f"executorch_{part}" for part in ("kernels_optimized", "kernels_quantized", "backend_xnnpack", "threadpool")),
    "executorch_etdump",
    "custom_ops_aot_lib",
]
CUSTOM_OPS = "extension/llm/custom_ops/libcustom_ops_aot_lib.so"
# The one datum that the library of custom operators takes from libtorch; its kernels do not touch it.
TORCH_DATUM = "_ZN3c1019UndefinedTensorImpl10_singletonE"


class Missing(Exception):
    """What is not there and how to get it, in one line."""


def require(tool: str, package: str) -> str:
    """The path of a tool. Raises Missing."""
    path = shutil.which(tool)
    if path is None:
        raise Missing(f"{tool} is not installed (apt-get install {package})")
    return path


def host_kernel(executorch: Path, folder: Path) -> Path:
    """The fused kernel as a shared library that registers itself when it is loaded beside `executorch`."""
    library = folder / "libhadamard_kernel.so"
    flags = ["-O3", "-march=native", "-shared", "-fPIC"]
    link = [f"-L{executorch / 'lib'}", "-lexecutorch"]
    _compile([require("g++", "g++"), *flags, *_includes(executorch), str(KERNEL), "-o", str(library), *link])
    return library


def plugin(folder: Path) -> Path:
    """qemu's instruction counter."""
    library = folder / "libcount_instructions.so"
    gcc = require("gcc", "gcc")
    _compile([gcc, "-O2", "-shared", "-fPIC", str(NATIVE / "count_instructions.c"), "-o", str(library)])
    return library


def arm_runner(executorch: Path, folder: Path) -> Path:
    """The runner with both Hadamard kernels, for ARM64; `executorch` is the unpacked folder of an aarch64 wheel."""
    runner, operators = folder / "runner", folder / Path(CUSTOM_OPS).name
    operators.write_bytes(without_torch((executorch / CUSTOM_OPS).read_bytes()))
    sources = [str(NATIVE / name) for name in ("runner.cpp", "llama_hadamard.cpp")]
    flags = ["-O3", f"-mcpu={CPU}", "-DET_EVENT_TRACER_ENABLED", "-DET_USE_THREADPOOL"]
    link = [part for path in (executorch / "lib", folder) for part in (f"-L{path}", f"-Wl,-rpath,{path}")]
    link += ["-Wl,--no-as-needed", *(f"-l{library}" for library in LIBRARIES), "-Wl,--as-needed", "-lpthread", "-ldl"]
    link += ["-Wl,--allow-shlib-undefined", f"-Wl,--defsym={TORCH_DATUM}=0"]
    compiler = require(CROSS, "g++-aarch64-linux-gnu libc6-dev-arm64-cross")
    _compile([compiler, *flags, *_includes(executorch), *sources, str(KERNEL), "-o", str(runner), *link])
    return runner


def without_torch(library: bytes) -> bytes:
    """A copy of a 64-bit little-endian ELF library that needs no other library and runs no initializers.

    The custom operators' kernels depend on ExecuTorch alone, but the library also registers them with PyTorch as it is
    loaded, and a PyTorch for ARM64 does not run here. What it needs of ExecuTorch, the program that links it brings.
    """
    patched = bytearray(library)
    needed, debug, initializers_size, dynamic = 1, 21, 27, 2
    offset, entry_size, count = struct.unpack_from("<Q", library, 32)[0], *struct.unpack_from("<HH", library, 54)
    segments = [struct.unpack_from("<IIQQQQ", library, offset + i * entry_size) for i in range(count)]
    start, size = next((segment[2], segment[5]) for segment in segments if segment[0] == dynamic)
    for at in range(start, start + size, 16):
        tag, value = struct.unpack_from("<QQ", library, at)
        if tag == needed:
            tag = debug  # which loaders leave to debuggers
        elif tag == initializers_size:
            value = 0
        struct.pack_into("<QQ", patched, at, tag, value)
    return bytes(patched)


def _includes(executorch: Path) -> list[str]:
    include = executorch / "include"
    portable = include / "executorch/runtime/core/portable_type/c10"
    return ["-std=c++17", "-DC10_USING_CUSTOM_GENERATED_MACROS", f"-I{include}", f"-I{portable}"]


def _compile(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
