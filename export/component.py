"""Components of a pipeline as targets get them: modules with example inputs, each a method of a program to be."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import nn

from edge_hadanorm import bundle
from edge_hadanorm.bundle.components import (
    decoder_signatures,
    denoiser_signatures,
    encoder_signatures,
    prompt_inputs,
    text_encoder_inputs,
    text_encoder_signatures,
)
from edge_hadanorm.checkpoint import Checkpoint
from edge_hadanorm.models.denoiser import Denoiser
from edge_hadanorm.pipelines.autoencoder import ImageDecoder, ImageEncoder, pixels_a_latent
from edge_hadanorm.pipelines.kinds import Tensors, as_given, suffixed
from edge_hadanorm.pipelines.text_to_image import TextToImage


@dataclass(frozen=True)
class Method:
    """A module whose forward is a method of a program.

    inputs, outputs: example tensors by name, whose shapes the program keeps. arguments: the inputs as forward takes
    them, where that is not one after the other.
    """

    module: nn.Module
    inputs: dict[str, torch.Tensor]
    outputs: dict[str, torch.Tensor]
    arguments: tuple = ()

    @property
    def given(self) -> tuple:
        """The arguments of forward."""
        return self.arguments or tuple(self.inputs.values())

    def signature(self) -> dict:
        """The method's entry in the manifest, which a target may know the bytes of activations for."""
        return bundle.signature(self.inputs, self.outputs) | {"activations": None}


@dataclass(frozen=True)
class Component:
    """A program to be.

    eight_bit: its linears, which are outside the recipe, get weights of 8 bits. wide: its activations may leave the
    range of float16, and stay in float32. sizes: by the name of a size that is not the default, which methods stand for
    those of the default there.
    """

    role: str
    methods: dict[str, Method]
    eight_bit: bool = False
    wide: bool = False
    sizes: dict[str, dict[str, str]] = field(default_factory=dict)


def joined(components: Mapping[str, Component], shared: bool) -> Component:
    """Join components by the name of their size, the default's first, into one with the methods of all.

    shared: whether methods of equal shapes compute the same, and are there once.
    """
    (_, first), *others = components.items()
    methods, sizes = dict(first.methods), {}
    for size, component in others:
        own: dict[str, str] = {}
        for name, method in component.methods.items():
            known = [other for other, made in methods.items() if shared and made.signature() == method.signature()]
            own[name] = known[0] if known else f"{name}_{size}"
            methods[own[name]] = method
        for name in first.methods:
            own.setdefault(name, own[next(iter(component.methods))])  # nothing is smaller than its tile
        sizes[size] = {name: other for name, other in own.items() if name != other}
    return replace(first, methods=methods, sizes=sizes)


class Prepare(nn.Module):
    """The denoiser's `prepare` as a module's forward, of what is gathered from the inputs named in this order."""

    def __init__(self, denoiser: Denoiser, names: Iterable[str], gather: Callable[[Tensors], Tensors] = as_given):
        super().__init__()
        self.denoiser, self.names, self.gather = denoiser, tuple(names), gather

    def forward(self, *given: torch.Tensor) -> list[torch.Tensor]:
        return self.denoiser.prepare(**self.gather(dict(zip(self.names, given, strict=True))))


class Denoise(nn.Module):
    """The denoiser's `denoise` as a module's forward."""

    def __init__(self, denoiser: Denoiser):
        super().__init__()
        self.denoiser = denoiser

    def forward(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: list[torch.Tensor]) -> torch.Tensor:
        return self.denoiser.denoise(latents, timestep, conditioning)


def denoiser_component(saved: Checkpoint, others: Mapping[str, Denoiser] | None = None) -> Component:
    """The quantized denoiser, of one sequence. others: the same for other sizes, by their names."""
    pipeline = saved.pipeline
    gather: Callable[[Tensors], Tensors]
    if pipeline is None:
        inputs, gather = prompt_inputs(saved.denoiser, saved.text.tokens, saved.text.masked), as_given
    else:
        inputs, gather = pipeline.encode("", negative=True), pipeline.kind.gather
    models = {"": saved.denoiser, **(others or {})}
    return joined({size: _denoiser(model, inputs, gather) for size, model in models.items()}, shared=False)


def _denoiser(model: Denoiser, inputs: Tensors, gather: Callable[[Tensors], Tensors]) -> Component:
    prepare, denoise = denoiser_signatures(model, inputs, gather).values()
    latents, timestep, *conditioning = denoise.inputs.values()
    methods = {
        "prepare": Method(Prepare(model, inputs, gather), prepare.inputs, prepare.outputs),
        "denoise": Method(Denoise(model), denoise.inputs, denoise.outputs, (latents, timestep, conditioning)),
    }
    return Component("denoiser", methods)


def text_encoder_component(pipeline: TextToImage, role: str) -> Component:
    """A text encoder, its linears in 8 bits and its activations in float32: those of T5 and Gemma leave float16."""
    encoder = pipeline.encoder(role)
    results = encoder(*text_encoder_inputs(pipeline, role).values())
    outputs = {suffixed(role, name): tensor for name, tensor in zip(encoder.widths, results, strict=True)}
    signature = text_encoder_signatures(pipeline, role, outputs)["encode"]
    method = Method(encoder, signature.inputs, signature.outputs)
    return Component(role, {"encode": method}, eight_bit=True, wide=True)


Shapes = Mapping[str, tuple[int, int, int]]  # of latents, by the name of a size, the default's first


@torch.no_grad()
def decoder_component(pipeline: TextToImage, shapes: Shapes, tile: int | None = None, small: bool = False) -> Component:
    """The image decoder, in float. tile: side of the latents to decode at once. small: with a method for smaller ones.

    That one, where there is to be one, has the same weights.
    """
    decoder = cast(ImageDecoder, pipeline.decoder)

    def component(shape: tuple[int, int, int]) -> Component:
        signatures = decoder_signatures(decoder, shape, tile, small)
        methods = {name: Method(decoder, signature.inputs, signature.outputs) for name, signature in signatures.items()}
        return Component(bundle.DECODER, methods, wide=decoder.wide)

    return joined({size: component(shape) for size, shape in shapes.items()}, shared=True)


@torch.no_grad()
def encoder_component(pipeline: TextToImage, shapes: Shapes, tile: int | None = None) -> Component:
    """The image encoder, in float. tile: side of the latents to encode at once."""
    encoder, folder = cast(ImageEncoder, pipeline.image_encoder), pipeline.folder / "vae"
    pixels = pixels_a_latent(folder, cast(str, pipeline.kind.decoder))

    def component(shape: tuple[int, int, int]) -> Component:
        signature = encoder_signatures(encoder, shape, pixels, tile)["encode"]
        method = Method(encoder, signature.inputs, signature.outputs)
        return Component(bundle.IMAGE_ENCODER, {"encode": method}, wide=encoder.wide)

    return joined({size: component(shape) for size, shape in shapes.items()}, shared=True)
