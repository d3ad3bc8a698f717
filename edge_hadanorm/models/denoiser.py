"""The denoiser of every family: the one form that is calibrated, quantized, simulated and exported."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from typing_extensions import Self

from edge_hadanorm.method.fold import Producer
from edge_hadanorm.method.linear import QuantizedLinear
from edge_hadanorm.models.conversion import Conversion

# A call on its way through the stages: tensors of B sequences each or None, the tokens [B, S, d] first. Which there are
# is the family's affair, so that types say no more.
State = tuple[Any, ...]

# The transformer's forward argument for each tensor of a prompt.
ARGUMENTS = {
    "text": "encoder_hidden_states",
    "mask": "encoder_attention_mask",
    "pooled": "pooled_projections",
    "label": "class_labels",
    "guidance": "guidance",
}


class Denoiser(nn.Module):
    """A diffusion transformer as `prepare`, once a prompt, and `denoise`, every step.

    Latents are [B, C, H, W], timesteps [1], and what a prompt gives are tensors by name, as in `prompt_shapes`.
    A subclass covers one transformer class of diffusers, `source_class`, with that class's `config`, in which
    `latent_size` [H, W] is our own key: the size of latents where it is not the config's own.
    """

    source_class: ClassVar[str]
    # Tensors of a state dict that nothing here reads.
    unread: ClassVar[tuple[str, ...]] = ()
    # Whether the module inside is another library's, which may fail in any way where ours is known to work.
    foreign: ClassVar[bool] = False

    def __init__(self, config: dict):
        super().__init__()
        self.check(config)
        self.config = config

    @classmethod
    def from_diffusers(cls, config: dict, weights: Mapping[str, torch.Tensor]) -> Self:
        """Make a denoiser of a transformer's config and its state dict, in the state dict's dtype.

        Raises UserError for a missing or mis-shaped tensor.
        """
        with torch.device("meta"):
            denoiser = cls(config)
        denoiser.load_state_dict(cls.convert(config, weights), assign=True)
        return denoiser

    @classmethod
    def convert(cls, config: dict, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The transformer's state dict as this class's. Raises UserError for a missing or mis-shaped tensor."""
        conversion = Conversion(weights)
        cls.fill(config, conversion)
        conversion.check_all_taken(*cls.unread)
        return conversion.state

    @staticmethod
    def check(config: dict) -> None:
        """Raises UserError where the config is of a transformer that this class does not cover."""

    @staticmethod
    def fill(config: dict, into: Conversion) -> None:
        """Take every tensor of the transformer and put every one of this class."""
        raise NotImplementedError

    def latent_shape(self) -> tuple[int, int, int]:
        """C, H, W."""
        raise NotImplementedError

    def image_tokens(self) -> int:
        """Count the tokens of latents: one each, where a class has no patches."""
        return math.prod(self.latent_shape()[1:])

    @classmethod
    def placed(cls, config: dict) -> dict[str, torch.Tensor]:
        """Tensors of the state that depend on the size of latents alone, such as positions.

        Raises UserError where they are learned.
        """
        return {}

    def resized(self, height: int, width: int) -> Self:
        """Make this denoiser one for latents of another size, with positions as diffusers makes them for that.

        Weights are shared. Raises UserError for a size that the transformer cannot have.
        """
        if (height, width) == self.latent_shape()[1:]:
            return self
        config, dtype = self.config | {"latent_size": [height, width]}, next(self.parameters()).dtype
        with torch.device("meta"):
            changed = type(self)(config)
        for name, module in list(self.named_modules()):
            if isinstance(module, QuantizedLinear):
                changed.set_submodule(name, module)
        placed = {name: tensor.to(dtype) for name, tensor in self.placed(config).items()}
        changed.load_state_dict(self.state_dict() | placed, assign=True)
        return changed.train(self.training).requires_grad_(False)

    def prompt_shapes(self, tokens: int, masked: bool = False) -> dict[str, tuple[int, ...]]:
        """Shapes of a prompt of so many text tokens, in the order of `prepare`; masked: with a `mask` of them."""
        raise NotImplementedError

    def unpacked(self, arguments: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Captured arguments of diffusers' forward with latents [N, C, H, W], and without what is constant here.

        Raises UserError where a constant is another.
        """
        return arguments

    def prepare(self, *args: Any, **prompt: Any) -> list[torch.Tensor]:
        """The conditioning: all that depends on the prompt alone, of tensors [B, ...]."""
        raise NotImplementedError

    def denoise(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: list[torch.Tensor]) -> torch.Tensor:
        """The prediction [B, C, H, W] at one timestep [1], the same for the whole batch."""
        raise NotImplementedError

    def stages(self) -> list[list[str]]:
        """Names of the linears that a recipe quantizes, in order of execution, block by block.

        A block is what `advance` runs, and no transform folds from one into another.
        """
        raise NotImplementedError

    def begin(self, latents: torch.Tensor, timestep: torch.Tensor, *args: Any, **prompt: Any) -> State:
        """Run a call of the denoiser up to its first block, for `advance`."""
        raise NotImplementedError

    def advance(self, stage: int, state: State) -> State:
        """Take such calls one block on: prepare and denoise of that block."""
        raise NotImplementedError

    def finish(self, state: State) -> torch.Tensor:
        """The prediction [B, C, H, W] of such calls past the last block, as `prepare` and `denoise` make it."""
        raise NotImplementedError

    def release(self, stage: int) -> None:
        """Forget the weights of a block's quantizable linears, when no stage will be run that needs them."""
        for name in self.stages()[stage]:
            self.get_submodule(name).to("meta")

    def quantizable(self) -> list[str]:
        """Names of the linears that a recipe quantizes, in order of execution."""
        return [name for stage in self.stages() for name in stage]

    def steady(self) -> list[str]:
        """Linears whose inputs keep their mean from call to call: a recipe's dynamic centre is a static one there."""
        return []

    def producers(self) -> dict[str, Producer]:
        """Makers of the inputs of quantizable linears, where a transform can fold into it."""
        return {}


def kind(name: str) -> tuple[str, int]:
    """Role of a linear in its block, and the block's number: blocks.3.ff.up -> ("ff.up", 3)."""
    parts = name.split(".")
    numbers = [int(part) for part in parts if part.isdigit()]
    words = ".".join(part for part in parts if not part.isdigit())
    return words.removeprefix("blocks."), numbers[0] if numbers else 0


def device_of(denoiser: nn.Module) -> torch.device:
    """Device of a denoiser's parameters."""
    return next(denoiser.parameters()).device
