"""Whole pipelines of diffusers, with tiny random components."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import diffusers
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from runtime_tests.support.families import FAMILIES

WORDS = ["a red cat", "a blue house", "two green trees", "Enhanced prompt: a detailed picture of a yellow bird"]
PAD, BEGIN, END = "<pad>", "<bos>", "<eos>"
LATENTS, TEXT = 4, 48
CLASSES = ["tench, Tinca tinca", "goldfish", "shark", "ray", "cock", "hen", "finch", "robin", "jay", "magpie"]
CLASSES += [f"class {i}" for i in range(len(CLASSES), 1000)]


def tokenizer(template: str, length: int, pad: str = PAD) -> PreTrainedTokenizerFast:
    """Byte-level, so that it knows every word."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[PAD, BEGIN, END], initial_alphabet=alphabet)
    made.train_from_iterator(WORDS, trainer)
    special = [(token, made.token_to_id(token)) for token in (BEGIN, END)]
    made.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=pad, bos_token=BEGIN, eos_token=END, model_max_length=length
    )


def t5(words: PreTrainedTokenizerFast, width: int = TEXT) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(vocab_size=len(words), d_model=width, d_kv=16, d_ff=64, num_layers=2, num_heads=2, is_decoder=False)
    )


def clip(words: PreTrainedTokenizerFast, width: int) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=width,
            intermediate_size=64,
            projection_dim=20,
            num_hidden_layers=2,
            num_attention_heads=2,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )


def autoencoder(shift: float | None = None) -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        latent_channels=LATENTS,
        scaling_factor=0.9,
        shift_factor=shift,
    )


def pixart() -> diffusers.DiffusionPipeline:
    words = tokenizer(f"$A {END}", 512)
    return diffusers.PixArtSigmaPipeline(
        words, t5(words), autoencoder(), FAMILIES["pixart"].make(), diffusers.DPMSolverMultistepScheduler()
    )


def stable_diffusion_3() -> diffusers.DiffusionPipeline:
    clips = [tokenizer(f"{BEGIN} $A {END}", 77, pad) for pad in (END, PAD)]
    words = tokenizer(f"$A {END}", 256)
    return diffusers.StableDiffusion3Pipeline(
        transformer=FAMILIES["sd3"].make(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(shift=0.1),
        text_encoder=clip(clips[0], 16),
        tokenizer=clips[0],
        text_encoder_2=clip(clips[1], 24),
        tokenizer_2=clips[1],
        text_encoder_3=t5(words),
        tokenizer_3=words,
    )


def sana() -> diffusers.DiffusionPipeline:
    words = tokenizer(f"{BEGIN} $A", 300)
    gemma = Gemma2Config(
        vocab_size=len(words),
        hidden_size=TEXT,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        pad_token_id=words.pad_token_id,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
    )
    vae = diffusers.AutoencoderDC(
        latent_channels=LATENTS,
        attention_head_dim=4,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 16),
        decoder_block_out_channels=(8, 16),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        scaling_factor=0.5,
    )
    return diffusers.SanaPipeline(
        words, Gemma2Model(gemma), vae, FAMILIES["sana"].make(), diffusers.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        )
    )  # fmt: skip


def dit() -> diffusers.DiffusionPipeline:
    """Of a thousand classes, as the pipeline has it."""
    known = FAMILIES["dit"]
    return diffusers.DiTPipeline(
        dataclasses.replace(known, config=known.config | {"num_embeds_ada_norm": len(CLASSES)}).make(),
        autoencoder(),
        diffusers.DDIMScheduler(clip_sample=False),
    )


PIPELINES: dict[str, Callable[[], diffusers.DiffusionPipeline]] = {
    "pixart": pixart,
    "sd3": stable_diffusion_3,
    "sana": sana,
    "dit": dit,
}


def save(name: str, folder: Path) -> Path:
    """A pipeline's own folder, as save_pretrained leaves it; class names are added as the hub's folders have them."""
    torch.manual_seed(0)
    PIPELINES[name]().save_pretrained(folder)
    if name == "dit":
        index = json.loads((folder / "model_index.json").read_text())
        index["id2label"] = {str(i): label for i, label in enumerate(CLASSES)}
        (folder / "model_index.json").write_text(json.dumps(index))
    return folder
