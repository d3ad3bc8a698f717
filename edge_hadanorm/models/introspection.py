"""Introspection of a transformer of diffusers without a form here: what its class, config and shapes tell of it.

What its forward takes, and which of its linears are given tokens, a call on fake tensors tells, which have shapes and
no values: a module that this cannot call could not be exported either.
"""

import contextlib
import functools
import inspect
import itertools
import logging
import re
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from edge_hadanorm.errors import UserError
from edge_hadanorm.models.denoiser import ARGUMENTS

# Forward arguments of a prompt that has a text, in the order of the conditioning.
TEXT_ARGUMENTS = {name: ARGUMENTS[name] for name in ("text", "mask", "pooled", "guidance")}
# What some modules are told of the picture besides, in pixels, of which a latent has so many a side.
SIZES = ("original_size", "target_size", "crop_coords")
PIXELS = 8
# Positions of packed latents, which every model counts its own way; often optional in name only.
PACKED = ("img_ids", "img_shapes")
# What transformers call their lists of blocks.
STACK = re.compile("block|layer|refiner")
# Of the call on fake tensors: two sequences, and a number of text tokens that is hardly a width.
BATCH, TOKENS = 2, 37

Shapes = dict[str, tuple[int, ...]]


@functools.cache
def arguments(forward: Callable) -> dict[str, bool]:
    """The arguments of a module class's forward, and whether it needs them."""
    parameters = list(inspect.signature(forward).parameters.values())[1:]
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {p.name: p.default is p.empty for p in parameters if p.kind not in variadic}


def build(module_class: type[nn.Module], config: dict) -> nn.Module:
    """The module of a config, its large parameters without memory, its tables as they are: no state dict has them."""
    accepted = inspect.signature(module_class.__init__).parameters
    try:
        with EmptyOnMeta():
            return module_class(**{key: value for key, value in config.items() if key in accepted}).eval()
    except Exception as error:  # a module may fail in any way on a value that it does not know
        raise UserError(f"transformer config: not one of {module_class.__name__}: {one_line(error)}") from None


class EmptyOnMeta(TorchFunctionMode):
    """Tensors made without values, as a layer makes its weight, are on the meta device."""

    def __torch_function__(self, function, types, given=(), named=None):
        named = named or {}
        return function(*given, **(named | {"device": "meta"} if function is torch.empty else named))


def call_arguments(
    module_class: type[nn.Module], latents: torch.Tensor, timestep: torch.Tensor, prompt: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor | bool]:
    """Arguments of a forward on latents [B, C, H, W] at a timestep [1] or [B].

    A mask that it insists on keeps all tokens.
    """
    batch, text, accepted = len(latents), prompt["text"], arguments(module_class.forward)
    given = {"hidden_states": latents, "timestep": timestep.expand(batch)}
    if accepted.get(TEXT_ARGUMENTS["mask"]):
        given[TEXT_ARGUMENTS["mask"]] = text.new_ones(text.shape[:2])
    given |= {TEXT_ARGUMENTS[name]: tensor for name, tensor in prompt.items()}
    for name in accepted.keys() & SIZES:
        sides = (0, 0) if name == "crop_coords" else (PIXELS * side for side in latents.shape[2:])
        given[name] = torch.cat([text.new_full((batch, 1), side) for side in sides], dim=1)
    return given | ({"return_dict": False} if "return_dict" in accepted else {})


def find_prompt(transformer: nn.Module, known: dict, latent_shape: tuple[int, int, int]) -> tuple[Shapes, list[str]]:
    """The first prompt of `candidates` that a module takes, and its linears on tokens in order of execution.

    known: its config. Raises UserError where it takes none, and where it does not make latents of latents.
    """
    module_class, (channels, *grid) = type(transformer), latent_shape
    accepted, failures = arguments(module_class.forward), []
    for shapes in candidates(known, accepted):
        linears: dict[str, bool] = {}
        try:
            made = fake_call(transformer, latent_shape, shapes, linears)
        except Exception as error:  # a module may fail in any way
            values = isinstance(error, DataDependentOutputException | DynamicOutputShapeException)
            failures.append((len(linears), "it depends on values" if values else one_line(error)))
            continue
        if made not in [(BATCH, count, *grid) for count in (channels, 2 * channels)]:
            expected = [BATCH, channels, *grid]
            raise UserError(f"{module_class.__name__} makes {list(made)} of latents {expected}, not their shape")
        if TEXT_ARGUMENTS["mask"] in accepted:
            with contextlib.suppress(Exception):
                masked = {"text": shapes["text"], "mask": ()} | shapes
                fake_call(transformer, latent_shape, masked, {})
                shapes = masked
        return shapes, [name for name, on_tokens in linears.items() if on_tokens]
    reason = f": {max(failures)[1]}" if failures else ""
    raise UserError(f"{module_class.__name__} does not run on latents, timestep and text alone{reason}")


def fake_call(
    transformer: nn.Module, latent_shape: tuple[int, int, int], shapes: Shapes, linears: dict[str, bool]
) -> tuple[int, ...]:
    """The shape of a prediction. Each linear that is called enters `linears`: whether its input is tokens."""

    def observe(name: str, _: nn.Module, given: tuple) -> None:
        x = given[0]
        linears.setdefault(name, x.ndim == 3 and x.shape[0] == BATCH and x.shape[1] > 1)

    tensors = [*transformer.named_parameters(), *transformer.named_buffers()]
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, torch.no_grad(), contextlib.ExitStack() as hooks, unlogged("torch._subclasses.fake_tensor"):
        for name, module in transformer.named_modules():
            if type(module) is nn.Linear:
                handle = module.register_forward_pre_hook(functools.partial(observe, name))
                hooks.callback(handle.remove)
        fake = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in tensors}
        prompt = {name: torch.empty(BATCH, *shape) for name, shape in with_tokens(shapes, TOKENS).items()}
        given = call_arguments(type(transformer), torch.empty(BATCH, *latent_shape), torch.empty(1), prompt)
        return tuple(first(functional_call(transformer, fake, (), given)).shape)


def candidates(known: dict, accepted: dict[str, bool]) -> Iterator[Shapes]:
    """Prompts to try, without tokens, by the widths that are in a config; with as few tensors as possible first."""
    widths = dict.fromkeys(value for value in known.values() if type(value) is int and value > 1)
    pooled = [value for key, value in known.items() if "pooled" in key and type(value) is int]
    extras: list[Shapes] = [{}]
    if TEXT_ARGUMENTS["guidance"] in accepted:
        extras.append({"guidance": ()})
    if TEXT_ARGUMENTS["pooled"] in accepted:
        extras += [{"pooled": (width,)} | extra for width in pooled for extra in extras]
    for extra, width in itertools.product(extras, widths):
        yield {"text": (width,)} | extra


def with_tokens(shapes: Shapes, tokens: int) -> Shapes:
    """Shapes of one prompt of so many text tokens."""
    return {name: (tokens, *shape) if name in ("text", "mask") else shape for name, shape in shapes.items()}


def without_mask(shapes: Shapes) -> Shapes:
    return {name: shape for name, shape in shapes.items() if name != "mask"}


def sides(known: dict) -> tuple[int, int]:
    """Height and width of the latents."""
    size = known.get("sample_size")
    size = [size, size] if isinstance(size, int) else size
    if not (isinstance(size, list | tuple) and len(size) == 2 and all(type(s) is int and s > 0 for s in size)):
        raise UserError(
            f"transformer config: sample_size is {size!r}, not the height and width of latents; set it in config.json"
        )
    return tuple(size)


def patch(known: dict, height: int, width: int) -> int:
    """The side of a patch, as far as the config tells."""
    size = known.get("patch_size")
    size = size[-1] if isinstance(size, list | tuple) and size else size
    return size if type(size) is int and size > 0 and height % size == width % size == 0 else 1


def by_block(linears: list[str], transformer: nn.Module) -> dict[str, list[str]]:
    """The linears in the transformer's lists of blocks, by block."""
    lists = [name for name, child in transformer.named_children() if isinstance(child, nn.ModuleList)]
    blocks: dict[str, list[str]] = {}
    for name in linears:
        stack, _, rest = name.partition(".")
        number, _, linear = rest.partition(".")
        if stack in lists and STACK.search(stack) and linear:
            blocks.setdefault(f"{stack}.{number}", []).append(name)
    return blocks


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def first(made: torch.Tensor | tuple) -> torch.Tensor:
    return made if torch.is_tensor(made) else made[0]


@contextlib.contextmanager
def unlogged(name: str) -> Iterator[None]:
    """A logger says nothing while inside."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
