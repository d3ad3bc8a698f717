"""The parts of the reference pipeline, untrained: stock diffusers and transformers classes, small."""

from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from edge_hadanorm.reference.data import MAX_WORDS, SIDE, words
from edge_hadanorm.reference.pipeline import ReferencePipeline

PAD, UNKNOWN = "<pad>", "<unk>"
FLOW_SHIFT = 1.5

TRANSFORMER = dict(
    num_attention_heads=4,
    attention_head_dim=64,
    num_layers=8,
    patch_size=4,
    sample_size=SIDE,
    in_channels=3,
    out_channels=3,
    cross_attention_dim=256,
    caption_channels=128,
    norm_elementwise_affine=False,
    use_additional_conditions=False,
    interpolation_scale=1,
)


def make_tokenizer(captions: list[str]) -> PreTrainedTokenizerFast:
    """Word-level tokenizer over the captions' words; padded to MAX_WORDS, so that the empty prompt is all padding."""
    vocabulary = [PAD, UNKNOWN, *sorted({word for caption in captions for word in words(caption)})]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(Regex("[^a-z0-9]+"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.enable_padding(length=MAX_WORDS, pad_token=PAD, pad_id=0)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, model_max_length=MAX_WORDS
    )


def make_text_encoder(vocabulary_size: int, width: int) -> T5EncoderModel:
    """A T5 encoder without layers: a learned word table and a norm."""
    return T5EncoderModel(T5Config(vocab_size=vocabulary_size, d_model=width, num_layers=0, dropout_rate=0.0))


def make_transformer(config: dict) -> PixArtTransformer2DModel:
    """Xavier-initialised; what each branch and the model write last starts at zero (DiT, arXiv 2212.09748)."""
    model: Any = PixArtTransformer2DModel(**config)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(module.weight)
            torch.nn.init.zeros_(module.bias)
    for linear in [model.proj_out, *(block.attn2.to_out[0] for block in model.transformer_blocks)]:
        torch.nn.init.zeros_(linear.weight)
    return model


def make_pipeline(captions: list[str], config: dict = TRANSFORMER) -> ReferencePipeline:
    """An untrained pipeline for these captions. The caller seeds torch."""
    tokenizer = make_tokenizer(captions)
    return ReferencePipeline(
        tokenizer=tokenizer,
        text_encoder=make_text_encoder(len(tokenizer), config["caption_channels"]),
        transformer=make_transformer(config),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT
        ),
    )
