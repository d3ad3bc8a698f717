"""Compiles the kernels in native/: for this machine, and for ARM64 with the runner of ../native."""

import struct
from pathlib import Path

from runtime_tests.device import toolchain
from runtime_tests.device.machine import Machine
from runtime_tests.device.toolchain import Extra

NATIVE = Path(__file__).parent / "native"
KERNEL = NATIVE / "hadamard_kernel.cpp"
CPU = "cortex-a76"
CUSTOM_OPS = "extension/llm/custom_ops/libcustom_ops_aot_lib.so"
# The one datum that the library of custom operators takes from libtorch; its kernels do not touch it.
TORCH_DATUM = "_ZN3c1019UndefinedTensorImpl10_singletonE"


def host_kernel(folder: Path) -> Path:
    """The fused kernel as a shared library that registers itself in the ExecuTorch installed here. Raises Missing."""
    executorch = toolchain.installed()
    command = [
        toolchain.require("g++", "g++"),
        "-O3",
        "-march=native",
        "-shared",
        "-fPIC",
        *toolchain.includes(executorch),
    ]
    command += [str(KERNEL), f"-L{executorch / 'lib'}", "-lexecutorch"]
    return toolchain.compiled(command, "libhadamard_kernel.so", [KERNEL], folder)


def arm_machine(wheel: Path | None, folder: Path) -> Machine:
    """An emulated processor whose runner has both Hadamard kernels, see `toolchain.wheel`. Raises Missing."""
    toolchain.qemu()
    executorch = toolchain.wheel(wheel)
    operators = folder / Path(CUSTOM_OPS).name
    operators.write_bytes(without_torch((executorch / CUSTOM_OPS).read_bytes()))
    link = (f"-L{folder}", f"-Wl,-rpath,{folder}", "-lcustom_ops_aot_lib", f"-Wl,--defsym={TORCH_DATUM}=0")
    extra = Extra((NATIVE / "llama_hadamard.cpp", KERNEL), ("-O3", f"-mcpu={CPU}"), link)
    return Machine(CPU, CPU, extra, executorch)


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
