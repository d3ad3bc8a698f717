"""Any other text-conditioned transformer of diffusers: its module as it is, with the linears of its blocks quantized.

Nothing is stacked and nothing folds: linears that read one tensor have a transform each, all of it online, and the text
is gone through at every step. What the module asks for is found in foreign.py.
"""

import contextlib
import functools
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import ClassVar, cast

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from typing_extensions import Self

from edge_hadanorm.errors import UserError
from edge_hadanorm.method.operators import layer_norm
from edge_hadanorm.models.conversion import StateDictReader, check_sizes
from edge_hadanorm.models.denoiser import Denoiser, State
from edge_hadanorm.models.introspection import (
    PACKED,
    SIZES,
    TEXT_ARGUMENTS,
    Shapes,
    arguments,
    build,
    by_block,
    call_arguments,
    find_prompt,
    first,
    patch,
    sides,
    with_tokens,
    without_mask,
)
from edge_hadanorm.models.layers import attention

# What a masked token's scores get less.
MASKED = -10000.0
# Tensors of a state without what a block made: patches, timestep, prompt.
HEAD = 2 + len(TEXT_ARGUMENTS)


class GenericDenoiser(Denoiser):
    """A denoiser whose subclasses, by `form`, are each of one `module_class`; H and W are config["sample_size"]."""

    foreign = True
    module_class: ClassVar[type[nn.Module]]

    def __init__(self, config: dict):
        super().__init__(config)
        with torch.device("cpu"):
            self.transformer = build(self.module_class, config)
            known = config | dict(cast(Mapping, self.transformer.config))
            check_sizes(known, "in_channels")
            self.channels, (self.height, self.width) = known["in_channels"], sides(known)
            self.patch = patch(known, self.height, self.width)
            self.shapes, linears = find_prompt(self.transformer, known, self.latent_shape())
        self.blocks = by_block(linears, self.transformer)
        if not self.blocks:
            raise UserError(f"{self.source_class} has no blocks with linears on tokens, which could be quantized")
        # Known from the first call on: the stages that the next one goes on from, and whether `finish` does.
        self.resumable: set[int] | None = None
        self.finishable = False

    @classmethod
    def from_diffusers(cls, config: dict, weights: Mapping[str, torch.Tensor]) -> Self:
        denoiser, given, state = cls(config), StateDictReader(weights), {}
        for name, tensor in denoiser.transformer.state_dict().items():
            found = given.take(name, *tensor.shape)
            state[f"transformer.{name}"] = found if tensor.is_floating_point() else found.to(tensor.dtype)
        ignored = getattr(cls.module_class, "_keys_to_ignore_on_load_unexpected", None) or []
        given.check_all_taken(*(name for name in weights if any(re.search(pattern, name) for pattern in ignored)))
        denoiser.load_state_dict(state, assign=True)
        return denoiser

    def latent_shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width

    def prompt_shapes(self, tokens: int, masked: bool = False) -> Shapes:
        """Shapes of what the module asks for, of text [L, C], mask [L], pooled text [P] and guidance []."""
        return with_tokens(self.shapes if masked else without_mask(self.shapes), tokens)

    def stages(self) -> list[list[str]]:
        return [[f"transformer.{name}" for name in names] for names in self.blocks.values()]

    def prepare(self, **prompt: torch.Tensor) -> list[torch.Tensor]:
        """The prompt's tensors, times one, as a program's results cannot be its arguments."""
        return [prompt[name] * 1.0 for name in self._names(len(prompt))]

    def denoise(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: list[torch.Tensor]) -> torch.Tensor:
        return self._predict(latents, timestep, dict(zip(self._names(len(conditioning)), conditioning, strict=True)))

    def begin(self, latents: torch.Tensor, timestep: torch.Tensor, **prompt: torch.Tensor) -> State:
        """Patches of the latents, timestep and prompt, to which `advance` adds what the last block made.

        It adds nothing where the next block needs more than that; then that stage runs the blocks before it as well.
        """
        patches = F.pixel_unshuffle(latents, self.patch).flatten(2).transpose(1, 2)
        state = (patches, timestep.expand(len(latents)), *(prompt.get(name) for name in TEXT_ARGUMENTS))
        if self.resumable is None:
            self._find_resumable(state)
        return state

    def advance(self, stage: int, state: State) -> State:
        head, before = state[:HEAD], state[HEAD:]
        made = self._next(head, stage, before)
        kept = stage in (self.resumable or ()) if stage + 1 < len(self.blocks) else self.finishable
        return head + made if kept else head

    def finish(self, state: State) -> torch.Tensor:
        """The prediction; all blocks are run where the state has not what the last one made."""
        return self._call(state[:HEAD], len(self.blocks), state[HEAD:])

    def release(self, stage: int) -> None:
        """A block stays where a later stage may have to run the blocks before it as well."""
        if self.resumable is not None and set(range(stage, len(self.blocks) - 1)) <= self.resumable:
            super().release(stage)

    def _blocks(self) -> list[nn.Module]:
        return [self.transformer.get_submodule(name) for name in self.blocks]

    def _predict(self, latents: torch.Tensor, timestep: torch.Tensor, prompt: dict[str, torch.Tensor]) -> torch.Tensor:
        with OwnOperators():
            made = first(self.transformer(**call_arguments(self.module_class, latents, timestep, prompt)))
        return made[:, : self.channels]  # further channels are a learned variance

    def _call(self, head: State, start: int, before: State) -> torch.Tensor:
        """The prediction, with what the block before `start` made; where that is (), of the latents."""
        patches, timestep, *tensors = head
        grid = self.height // self.patch, self.width // self.patch
        latents = F.pixel_shuffle(patches.transpose(1, 2).unflatten(2, grid), self.patch)
        prompt = {name: tensor for name, tensor in zip(TEXT_ARGUMENTS, tensors, strict=True) if tensor is not None}
        with replay(self._blocks()[:start] if before else [], before):
            return self._predict(latents, timestep, prompt)

    def _run(self, head: State, start: int, stop: int, before: State) -> list[State]:
        """Results of the blocks from start to stop in such a call, which ends there."""
        with collect_results(self._blocks()[start:stop]) as made:
            self._call(head, start, before)
        return made

    def _next(self, head: State, start: int, before: State) -> State:
        """The result of block `start` from what the one before it made; past the last one the prediction."""
        if start < len(self.blocks):
            return self._run(head, start, start + 1, before)[0]
        return (self._call(head, start, before),)

    def _find_resumable(self, head: State) -> None:
        """The stages of whose results alone what comes next makes what it makes in a whole call."""
        last, found = len(self.blocks) - 1, set()
        results = [*self._run(head, 0, last + 1, ()), (self._call(head, 0, ()),)]
        for stage, (before, expected) in enumerate(itertools.pairwise(results)):
            if all(tensor is None or len(tensor) == len(head[0]) for tensor in before):
                with contextlib.suppress(Exception):  # a block may fail in any way on what it does not expect
                    actual = self._next(head, stage + 1, before)
                    if all(x is y or torch.equal(x, y) for x, y in zip(actual, expected, strict=True)):
                        found.add(stage)
        self.resumable, self.finishable = found - {last}, last in found

    def _names(self, count: int) -> list[str]:
        """Names of so many tensors of a prompt, with the mask or without."""
        return list(self.shapes if len(self.shapes) == count else without_mask(self.shapes))


@functools.cache
def form(class_name: str) -> type[GenericDenoiser] | None:
    """The denoiser class of a transformer class of diffusers, None where it is no text-conditioned transformer.

    Raises UserError where its forward insists on an argument that it cannot be given.
    """
    import diffusers

    found = getattr(diffusers, class_name, None)
    if not (isinstance(found, type) and issubclass(found, diffusers.ModelMixin)):
        return None
    accepted = arguments(found.forward)
    if not {"hidden_states", "timestep", TEXT_ARGUMENTS["text"]} <= accepted.keys():
        return None
    given = {"hidden_states", "timestep", *TEXT_ARGUMENTS.values(), *SIZES}
    if missing := [name for name, needed in accepted.items() if (needed and name not in given) or name in PACKED]:
        raise UserError(f"transformer class {class_name!r} is not supported: its forward needs {', '.join(missing)}")
    return type(f"Generic{class_name}", (GenericDenoiser,), {"source_class": class_name, "module_class": found})


class OwnOperators(TorchFunctionMode):
    """Attention and layer norms of a foreign module are those that our own models are written in, while inside."""

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


@contextlib.contextmanager
def replay(blocks: list[nn.Module], result: State) -> Iterator[None]:
    """Let these blocks give a known result, and compute nothing, while inside."""
    for block in blocks:
        block.forward = lambda *_, **__: result if len(result) > 1 else result[0]
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


@contextlib.contextmanager
def collect_results(blocks: list[nn.Module]) -> Iterator[list[State]]:
    """Keep what these blocks make while inside, in the order in which they run; the last one ends what runs."""
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
