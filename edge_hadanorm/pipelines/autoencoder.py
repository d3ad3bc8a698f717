"""The halves of a latent-space pipeline's autoencoder: the image decoder, and the encoder of known pictures."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from typing_extensions import Self

from edge_hadanorm.errors import UserError
from edge_hadanorm.files import read_json
from edge_hadanorm.tensor_files import require_finite


class Half(nn.Module):
    """One half of a diffusers autoencoder. other: the half that it leaves; not_read: tensors of that begin so."""

    other: str
    not_read: tuple[str, ...]

    def __init__(self, autoencoder: Any):
        super().__init__()
        self.autoencoder = autoencoder
        config = autoencoder.config
        self.scaling, self.shift = config.scaling_factor, config.get("shift_factor") or 0.0

    @classmethod
    def load(cls, folder: Path, class_name: str) -> Self:
        """Load a folder that diffusers saved, safetensors only, in float32. Raises UserError for what is broken.

        A file of the other half alone is refused; diffusers would fill this half with any numbers.
        """
        import diffusers

        try:
            autoencoder, found = getattr(diffusers, class_name).from_pretrained(
                folder,
                use_safetensors=True,
                torch_dtype=torch.float32,
                local_files_only=True,
                output_loading_info=True,
            )
        except Exception as error:  # diffusers raises whatever the file made it raise
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"autoencoder {folder} cannot be loaded: {reason}; copy it again") from None
        if missing := sorted(name for name in found["missing_keys"] if not name.startswith(cls.not_read)):
            raise UserError(f"autoencoder {folder} has no tensor {missing[0]}; copy it again")
        require_finite(autoencoder.state_dict(), f"weights of autoencoder {folder}")
        setattr(autoencoder, cls.other, None)
        return cls(autoencoder.eval().requires_grad_(False))

    @classmethod
    def outline(cls, folder: Path, class_name: str) -> Self:
        """Build the half of a config, with any weights. Raises UserError for a config of another class."""
        import diffusers

        config = read_json(folder / "config.json", "autoencoder config")
        try:
            return cls(getattr(diffusers, class_name).from_config(config).eval())
        except Exception as error:  # diffusers raises whatever the file made it raise
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"autoencoder {folder} is no {class_name}: {reason}; copy it again") from None

    @property
    def wide(self) -> bool:
        """Whether its activations may leave the range of float16, as those of most autoencoders do."""
        return self.autoencoder.config.get("force_upcast", True)


class ImageDecoder(Half):
    """The decoder: latents [1, C, h, w] as the sampler leaves them to a picture [1, 3, H, W] in about [-1, 1]."""

    other, not_read = "encoder", ("encoder.", "quant_conv.")

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.autoencoder.decode(latents / self.scaling + self.shift, return_dict=False)[0]


class ImageEncoder(Half):
    """The encoder: a picture [1, 3, H, W] in [-1, 1] to latents [1, C, h, w] as the sampler has them.

    Where an autoencoder gives a distribution these are its mean, so that a picture has the same latents everywhere.
    """

    other, not_read = "decoder", ("decoder.", "post_quant_conv.")

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        made = self.autoencoder.encode(picture, return_dict=False)[0]
        latents = made if isinstance(made, torch.Tensor) else made.mode()
        return (latents - self.shift) * self.scaling


# Keys of an autoencoder's config that have an entry a level, by class; each level but the first halves the sides.
LEVELS = {"AutoencoderKL": "block_out_channels", "AutoencoderDC": "encoder_block_out_channels"}


def pixels_a_latent(folder: Path, class_name: str) -> int:
    """Pixels of a picture along a latent's side. Raises UserError for a config of another class."""
    config = read_json(folder / "config.json", "autoencoder config")
    levels = config.get(LEVELS[class_name]) if isinstance(config, dict) else None
    if not isinstance(levels, list) or not levels:
        raise UserError(
            f"autoencoder {folder} is no {class_name}: its config has no {LEVELS[class_name]}; copy it again"
        )
    return 2 ** (len(levels) - 1)
