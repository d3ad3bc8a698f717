"""Runners of bundles: with any methods, and with those that ExecuTorch's runtime loads."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from edge_hadanorm.bundle import Bundle
from edge_hadanorm.bundle.prompts import BundlePrompts
from edge_hadanorm.bundle.schema import DECODER, IMAGE_ENCODER, SMALL
from edge_hadanorm.errors import UserError
from edge_hadanorm.pipelines.tiles import tiled

# A method of a program: its inputs in the manifest's order to its outputs in theirs.
Method = Callable[[list[torch.Tensor]], list[torch.Tensor]]


class BundleRunner:
    """A bundle's programs as a `Runner`. methods: what runs each, by role of the program and its own name."""

    def __init__(self, bundle: Bundle, methods: dict[tuple[str, str], Method]):
        self.bundle, self.latent_shape = bundle, bundle.latent_shape
        self.prompts = BundlePrompts(bundle)
        self._methods = methods

    def prepare(self, prompt: str, negative: bool = False) -> list[torch.Tensor]:
        tensors = self.prompts(prompt, negative, lambda role, inputs: self._methods[role, "encode"](inputs))
        if missing := [name for name in self.prompts.input_names if name not in tensors]:
            raise UserError(
                f"bundle {self.bundle.folder}: nothing gives {missing[0]!r}, which `prepare` takes; export it again"
            )
        made = self._methods["denoiser", "prepare"]([tensors[name] for name in self.prompts.input_names])
        return [tensor.clone() for tensor in made]  # the next call writes to the same memory

    def denoise(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: list[torch.Tensor]) -> torch.Tensor:
        return self._methods["denoiser", "denoise"]([latents.contiguous(), timestep, *conditioning])[0]

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents [C, H, W] to a picture [3, H, W], by smaller tiles where memory is short for the others."""
        if DECODER not in self.bundle.programs:
            return latents
        try:
            return self._coded(DECODER, "decode", latents)
        except UserError:  # a runtime seldom says that it was memory
            if (DECODER, SMALL) not in self._methods:
                raise
            return self._coded(DECODER, SMALL, latents)

    def encode(self, picture: torch.Tensor) -> torch.Tensor:
        if DECODER not in self.bundle.programs:
            return picture
        _ = self.bundle.encode_window  # refuses where there is no encoder
        return self._coded(IMAGE_ENCODER, "encode", picture, picture.shape[-1] // self.latent_shape[-1])

    def _coded(self, role: str, name: str, given: torch.Tensor, grain: int = 1) -> torch.Tensor:
        """Apply a method of either half of the autoencoder, tile by tile; grain: see `tiled`."""
        method, window = self._methods[role, name], self.bundle.window(role, name)
        return tiled(lambda tile: method([tile.contiguous()])[0].clone(), given[None], window, grain)[0]


# Numbers of dtypes in ExecuTorch.
DTYPE_NUMBERS = {
    "uint8": 0,
    "int8": 1,
    "int16": 2,
    "int32": 3,
    "int64": 4,
    "float16": 5,
    "float32": 6,
    "bool": 11,
    "bfloat16": 15,
}


def _stage(role: str, name: str) -> str:
    """Name a part of a picture's way, whose methods are in memory together.

    A method of another stage lets these go before it is loaded, as a phone does it: text encoders before the denoiser's
    steps, the denoiser before the decoder.
    """
    if role == IMAGE_ENCODER:
        return IMAGE_ENCODER
    return "prompt" if name in ("encode", "prepare") else name


class ExecuTorchRunner(BundleRunner):
    """A bundle's programs on the ExecuTorch runtime of this machine, each loaded where it is needed and then let go.

    Raises UserError for a program that the runtime does not load or that is another than the manifest says: at once,
    but for what is wrong with a delegate, which is found as a method is first called. What a damaged program holds for
    its delegates is not verified and can crash the process: a bundle's sha256 is the guard.
    """

    def __init__(self, bundle: Bundle):
        if not has_executorch():
            raise UserError("no ExecuTorch runtime here: pip install executorch, or take `backend` simulation")
        methods: dict[tuple[str, str], Method] = {}
        for role, program in bundle.programs.items():
            file = bundle.file(program["file"])
            opened = _open(file)
            for name, signature in program["methods"].items():
                own = signature.get("name", name)  # of a size that is not the bundle's default
                _check(file, opened, own, signature)
                methods[role, name] = partial(self._run, file, role, name, own)
        self._loaded: dict[tuple[str, str], tuple] = {}  # methods with their programs, without which none is valid
        super().__init__(bundle, methods)

    def _run(self, file: Path, role: str, name: str, own: str, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Call a method, `own` in its program, loaded if it is not; then those of other stages are let go first."""
        if (role, name) not in self._loaded:
            stage = _stage(role, name)
            self._loaded = {key: kept for key, kept in self._loaded.items() if _stage(*key) == stage}
            program = _open(file)
            method = _call(file, f"does not load its method {own!r}", program.load_method, own)
            self._loaded[role, name] = program, method
        return _call(file, f"cannot run {own!r} on what it was given", self._loaded[role, name][1].execute, inputs)


def _open(file: Path):
    """Open a program, of which no method is loaded yet."""
    from executorch.runtime import Runtime  # a bundle can be read, and simulated, where there is no runtime

    return _call(file, "is no program that this runtime loads", Runtime.get().load_program, file)


def _check(file: Path, program, name: str, signature: dict) -> None:
    """Raises UserError where a program has no such method, or one of other inputs and outputs than the manifest's."""
    if name not in program.method_names:
        raise UserError(f"program {file} has no method {name!r}, which the manifest lists; export the bundle again")
    meta = _call(file, f"does not describe its method {name!r}", program.metadata, name)
    sides = {
        "inputs": [meta.input_tensor_meta(i) for i in range(meta.num_inputs())],
        "outputs": [meta.output_tensor_meta(i) for i in range(meta.num_outputs())],
    }
    for side, tensors in sides.items():
        actual = [(tensor.dtype(), tuple(tensor.sizes())) for tensor in tensors]
        if actual != [(DTYPE_NUMBERS[tensor["dtype"]], tuple(tensor["shape"])) for tensor in signature[side]]:
            raise UserError(
                f"program {file}: {side} of {name!r} are not those of the manifest; export the bundle again"
            )


def _call(file: Path, what: str, call: Callable, *arguments: object):
    """Call ExecuTorch's runtime. Raises UserError for its errors; what: the problem, in words."""
    try:
        return call(*arguments)
    except MemoryError:
        raise UserError(f"program {file} {what}: not enough memory") from None
    except RuntimeError as error:
        raise UserError(f"program {file} {what} ({' '.join(str(error).split())}); export the bundle again") from None


def has_executorch() -> bool:
    """Whether the ExecuTorch runtime can be imported here."""
    try:
        import executorch.runtime  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


def set_threads(count: int) -> None:
    """Set the threads of PyTorch and ExecuTorch. A method that is loaded already keeps its pool, so call this first."""
    torch.set_num_threads(count)
    if has_executorch():
        from executorch.extension.pybindings import portable_lib

        portable_lib._unsafe_reset_threadpool(count)
