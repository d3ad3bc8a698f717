"""Any other text-conditioned transformer of diffusers: its module as it is, with the linears of its blocks quantized.

Nothing is stacked and nothing folds: linears that read one tensor have a transform each, all of it online, and the text
is gone through at every step. What the module asks for, and which of its linears are given tokens, a call on fake
tensors tells, which have shapes and no values: a module that this cannot call could not be exported either.
"""

import contextlib
import functools
import inspect
import itertools
import logging
import re
from collections.abc import Iterator
from typing import ClassVar, Self

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from edge_hadanorm.errors import UserError
from edge_hadanorm.models.denoiser import Denoiser, State
from edge_hadanorm.models.parts import Weights, attention, check_sizes, layer_norm

# The module's forward argument for each tensor of a prompt, in the order of the conditioning.
ARGUMENTS = {
    "text": "encoder_hidden_states",
    "mask": "encoder_attention_mask",
    "pooled": "pooled_projections",
    "guidance": "guidance",
}
# What some modules are told of the picture besides, in pixels, of which a latent has so many a side.
SIZES = ("original_size", "target_size", "crop_coords")
PIXELS = 8
# Positions of packed latents, which every model counts its own way; often optional in name only.
PACKED = ("img_ids", "img_shapes")
# What a masked token's scores get less.
MASKED = -10000.0
# What transformers call their lists of blocks.
STACK = re.compile("block|layer|refiner")
# Of the call on fake tensors: the guidance batch, and a number of text tokens that is hardly a width.
BATCH, TOKENS = 2, 37

Shapes = dict[str, tuple[int, ...]]


class GenericDenoiser(Denoiser):
    """Its subclasses, by `form`, are each of one `module_class`; H and W are config["sample_size"]."""

    module_class: ClassVar[type[nn.Module]]

    def __init__(self, config: dict):
        super().__init__(config)
        with torch.device("cpu"):
            self.transformer = build(self.module_class, config)
            known = config | dict(self.transformer.config)
            check_sizes(known, "in_channels")
            self.channels, (self.height, self.width) = known["in_channels"], sides(known)
            self.patch = patch(known, self.height, self.width)
            self.shapes, linears = self._asked_for(known)
        self.blocks = by_block(linears, self.transformer)
        if not self.blocks:
            raise UserError(f"{self.source_class} has no blocks with linears on tokens, which could be quantized")
        self.resumable: set[int] | None = None

    @classmethod
    def from_diffusers(cls, config: dict, weights: dict[str, torch.Tensor]) -> Self:
        denoiser, given, state = cls(config), Weights(weights), {}
        for name, tensor in denoiser.transformer.state_dict().items():
            found = given.take(name, *tensor.shape)
            state[f"transformer.{name}"] = found if tensor.is_floating_point() else found.to(tensor.dtype)
        ignored = cls.module_class._keys_to_ignore_on_load_unexpected or []
        given.check_all_taken(*(name for name in weights if any(re.search(pattern, name) for pattern in ignored)))
        denoiser.load_state_dict(state, assign=True)
        return denoiser

    def latent_shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width

    def prompt_shapes(self, tokens: int, masked: bool = False) -> Shapes:
        """Of text [L, C], mask [L], pooled text [P] and guidance [] those that the module asks for."""
        return with_tokens(self.shapes if masked else without_mask(self.shapes), tokens)

    def stages(self) -> list[list[str]]:
        return [[f"transformer.{name}" for name in names] for names in self.blocks.values()]

    def prepare(self, **prompt: torch.Tensor) -> list[torch.Tensor]:
        """The prompt's tensors, times one, as a program's results cannot be its arguments."""
        return [prompt[name] * 1.0 for name in self._names(len(prompt))]

    def denoise(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: list[torch.Tensor]) -> torch.Tensor:
        prompt = dict(zip(self._names(len(conditioning)), conditioning, strict=True))
        with InProducts():
            made = first(self.transformer(**self._given(latents, timestep, prompt)))
        return made[:, : self.channels]  # further channels are a learned variance

    def begin(self, latents: torch.Tensor, timestep: torch.Tensor, **prompt: torch.Tensor) -> State:
        """Patches of the latents, timestep and prompt, to which `advance` adds what the last block made.

        It adds nothing where the next block needs more than that; then that stage runs the blocks before it as well.
        """
        patches = F.pixel_unshuffle(latents, self.patch).flatten(2).transpose(1, 2)
        state = (patches, timestep.expand(len(latents)), *(prompt.get(name) for name in ARGUMENTS))
        if self.resumable is None:
            self.resumable = self._find_resumable(state)
        return state

    def advance(self, stage: int, state: State) -> State:
        head = state[: 2 + len(ARGUMENTS)]
        (made,) = self._run(head, stage, stage + 1, state[len(head) :])
        return head + made if stage in self.resumable else head

    def release(self, stage: int) -> None:
        """A block stays where a later stage may have to run the blocks before it as well."""
        if self.resumable is not None and set(range(stage, len(self.blocks) - 1)) <= self.resumable:
            super().release(stage)

    def _run(self, head: State, start: int, stop: int, before: State) -> list[State]:
        """What blocks start to stop make of what the block before them made; where that is (), of the latents."""
        patches, timestep, *prompt = head
        grid = self.height // self.patch, self.width // self.patch
        latents = F.pixel_shuffle(patches.transpose(1, 2).unflatten(2, grid), self.patch)
        prompt = {name: tensor for name, tensor in zip(ARGUMENTS, prompt, strict=True) if tensor is not None}
        blocks = [self.transformer.get_submodule(name) for name in self.blocks]
        known = replayed(blocks[:start] if before else [], before)
        with InProducts(), known, made_by(blocks[start:stop]) as made:
            self.transformer(**self._given(latents, timestep, prompt))
        return made

    def _find_resumable(self, head: State) -> set[int]:
        """The stages of whose results alone the next one makes what it makes in a whole call."""
        results, found = self._run(head, 0, len(self.blocks), ()), set()
        for stage, (before, expected) in enumerate(itertools.pairwise(results)):
            if all(tensor is None or len(tensor) == len(head[0]) for tensor in before):
                with contextlib.suppress(Exception):  # a block may fail in any way on what it does not expect
                    (actual,) = self._run(head, stage + 1, stage + 2, before)
                    if all(x is y or torch.equal(x, y) for x, y in zip(actual, expected, strict=True)):
                        found.add(stage)
        return found

    def _names(self, count: int) -> list[str]:
        """Of so many tensors of a prompt, with the mask or without."""
        return list(self.shapes if len(self.shapes) == count else without_mask(self.shapes))

    def _given(self, latents: torch.Tensor, timestep: torch.Tensor, prompt: dict[str, torch.Tensor]) -> dict:
        """The module's arguments; a mask that it insists on keeps all tokens."""
        batch, text, accepted = len(latents), prompt["text"], arguments(self.module_class)
        given = {"hidden_states": latents, "timestep": timestep.expand(batch)}
        if accepted.get(ARGUMENTS["mask"]):
            given[ARGUMENTS["mask"]] = text.new_ones(text.shape[:2])
        given |= {ARGUMENTS[name]: tensor for name, tensor in prompt.items()}
        for name in accepted.keys() & SIZES:
            sides = (0, 0) if name == "crop_coords" else (PIXELS * self.height, PIXELS * self.width)
            given[name] = torch.cat([text.new_full((batch, 1), side) for side in sides], dim=1)
        return given | ({"return_dict": False} if "return_dict" in accepted else {})

    def _asked_for(self, known: dict) -> tuple[Shapes, list[str]]:
        """The first prompt of `candidates` that the module takes, and its linears on tokens in order of execution."""
        accepted, failures = arguments(self.module_class), []
        for shapes in candidates(known, accepted):
            linears: dict[str, bool] = {}
            try:
                made = self._fake_call(shapes, linears)
            except Exception as error:  # a module may fail in any way
                values = isinstance(error, DataDependentOutputException | DynamicOutputShapeException)
                failures.append((len(linears), "it depends on values" if values else one_line(error)))
                continue
            channels, *grid = self.latent_shape()
            if made not in [(BATCH, count, *grid) for count in (channels, 2 * channels)]:
                expected = [BATCH, channels, *grid]
                raise UserError(f"{self.source_class} makes {list(made)} of latents {expected}, not their shape")
            if ARGUMENTS["mask"] in accepted:
                with contextlib.suppress(Exception):
                    masked = {"text": shapes["text"], "mask": ()} | shapes
                    self._fake_call(masked, {})
                    shapes = masked
            return shapes, [name for name, on_tokens in linears.items() if on_tokens]
        reason = f": {max(failures)[1]}" if failures else ""
        raise UserError(f"{self.source_class} does not run on latents, timestep and text alone{reason}")

    def _fake_call(self, shapes: Shapes, linears: dict[str, bool]) -> tuple[int, ...]:
        """The shape of a prediction. Each linear that is called enters `linears`: whether its input is tokens."""

        def observe(name: str, _: nn.Module, given: tuple) -> None:
            x = given[0]
            linears.setdefault(name, x.ndim == 3 and x.shape[0] == BATCH and x.shape[1] > 1)

        tensors = [*self.transformer.named_parameters(), *self.transformer.named_buffers()]
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        with mode, torch.no_grad(), contextlib.ExitStack() as hooks, unlogged("torch._subclasses.fake_tensor"):
            for name, module in self.transformer.named_modules():
                if type(module) is nn.Linear:
                    handle = module.register_forward_pre_hook(functools.partial(observe, name))
                    hooks.callback(handle.remove)
            fake = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in tensors}
            prompt = {name: torch.empty(BATCH, *shape) for name, shape in with_tokens(shapes, TOKENS).items()}
            given = self._given(torch.empty(BATCH, *self.latent_shape()), torch.empty(1), prompt)
            return tuple(first(functional_call(self.transformer, fake, (), given)).shape)


@functools.cache
def form(class_name: str) -> type[GenericDenoiser] | None:
    """The denoiser class of a transformer class of diffusers, None where it is no text-conditioned transformer.

    Raises UserError where its forward insists on an argument that it cannot be given.
    """
    import diffusers

    found = getattr(diffusers, class_name, None)
    if not (isinstance(found, type) and issubclass(found, diffusers.ModelMixin)):
        return None
    accepted = arguments(found)
    if not {"hidden_states", "timestep", ARGUMENTS["text"]} <= accepted.keys():
        return None
    given = {"hidden_states", "timestep", *ARGUMENTS.values(), *SIZES}
    if missing := [name for name, needed in accepted.items() if (needed and name not in given) or name in PACKED]:
        raise UserError(f"transformer class {class_name!r} is not supported: its forward needs {', '.join(missing)}")
    return type(f"Generic{class_name}", (GenericDenoiser,), {"source_class": class_name, "module_class": found})


@functools.cache
def arguments(module_class: type[nn.Module]) -> dict[str, bool]:
    """The arguments of its forward, and whether it needs them."""
    parameters = list(inspect.signature(module_class.forward).parameters.values())[1:]
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


class InProducts(TorchFunctionMode):
    """Attention and layer norms as in our own forms; as operators of their own they split a program's delegate."""

    def __torch_function__(self, function, types, given=(), named=None):
        named = named or {}
        if function is F.scaled_dot_product_attention and not (named.get("is_causal") or named.get("enable_gqa")):
            return head_by_head(*given, **{k: v for k, v in named.items() if k not in ("is_causal", "enable_gqa")})
        if function is F.layer_norm and given[0].ndim == 3 and len(given[1]) == 1:
            return weighted_norm(*given, **named)
        return function(*given, **named)


def head_by_head(query, key, value, attn_mask=None, dropout_p=0.0, scale=None) -> torch.Tensor:
    """Attention [B, H, S, h] of query [B, H, S, h], key and value [B, H, L, h], and a mask (True: keep) or bias of
    [B, 1 or H, 1 or S, L].
    """
    (batch, heads, tokens, width), bias, made = query.shape, attn_mask, []
    query = query * (width**-0.5 if scale is None else scale)
    if bias is not None and bias.dtype == torch.bool:
        bias = (1 - bias.to(query.dtype)) * MASKED
    for head in range(heads):
        q, k, v = (tensor[:, head : head + 1].flatten(0, 1) for tensor in (query, key, value))
        own = None if bias is None else bias[:, head : head + 1] if bias.shape[1] > 1 else bias
        made.append(attention([q], [k], [v], None if own is None else own.flatten(0, 1)))
    return torch.cat(made, dim=-1).view(batch, tokens, heads, -1).transpose(1, 2)


def weighted_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5) -> torch.Tensor:
    """Layer norm over the last dimension of x."""
    x = layer_norm(x, eps)
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def candidates(known: dict, accepted: dict[str, bool]) -> Iterator[Shapes]:
    """Prompts to try, without tokens, by the widths that are in a config; with as few tensors as possible first."""
    widths = dict.fromkeys(value for value in known.values() if type(value) is int and value > 1)
    pooled = [value for key, value in known.items() if "pooled" in key and type(value) is int]
    extras: list[Shapes] = [{}]
    if ARGUMENTS["guidance"] in accepted:
        extras.append({"guidance": ()})
    if ARGUMENTS["pooled"] in accepted:
        extras += [{"pooled": (width,)} | extra for width in pooled for extra in extras]
    for extra, width in itertools.product(extras, widths):
        yield {"text": (width,)} | extra


def with_tokens(shapes: Shapes, tokens: int) -> Shapes:
    """Those of one prompt of so many text tokens."""
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


@contextlib.contextmanager
def replayed(blocks: list[nn.Module], result: State) -> Iterator[None]:
    """These blocks give a result that is known, and compute nothing, while inside."""
    for block in blocks:
        block.forward = lambda *_, **__: result if len(result) > 1 else result[0]
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


@contextlib.contextmanager
def made_by(blocks: list[nn.Module]) -> Iterator[list[State]]:
    """What these blocks make while inside, in the order in which they run; the last one ends what runs."""
    made: list[State] = []

    def keep(_: nn.Module, __: tuple, result: torch.Tensor | tuple) -> None:
        made.append((result,) if torch.is_tensor(result) else tuple(result))
        if len(made) == len(blocks):
            raise _AllMade

    handles = [block.register_forward_hook(keep) for block in blocks]
    try:
        with contextlib.suppress(_AllMade):
            yield made
    finally:
        for handle in handles:
            handle.remove()


class _AllMade(Exception):
    """Nothing further down the module is wanted."""
